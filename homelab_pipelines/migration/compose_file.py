"""One file of a Compose project: its text, strictly read, and what is wrong with it before Compose sees it.

What Compose makes of it stands in `reading`. Lines are mended nowhere here, see `mends`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

from homelab_pipelines.inventory.document import Dialect, Document, Fault, NotYaml, read_document
from homelab_pipelines.inventory.problems import Path, Problem
from homelab_pipelines.migration.stack import Place

# !reset and !override: compose-spec, 13-merge.md. The guard is ten times that of a homelab: the largest project that
# is known to us (sentry) has 2,800 values, with anchors.
_TAGS = frozenset({"!reset", "!override", *(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "null"))})
COMPOSE = Dialect("Compose project", most_nodes=200_000, tags=_TAGS, anchors_again=True)
_CONFLICT = re.compile(r"(<{7}|={7}|>{7}|\|{7})( |$)")
_PORTS = re.compile(r"\d{1,5}")
_BASE_60 = re.compile(r"[1-9]\d*(:[0-5]?\d)+")
_BOM = "\ufeff"


@dataclass(frozen=True)
class ComposeFile:
    """A file as it was named, and what stands in it. `problems` keep it from being used, `warnings` do not."""

    path: FilePath
    text: str
    document: Document
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    newline: str = "\n"

    @property
    def data(self) -> dict[str, Any]:
        """Its mapping; empty where it holds something else."""
        return self.document.data if isinstance(self.document.data, dict) else {}

    @property
    def services(self) -> dict[str, Any]:
        """Its services by name; empty where they are no mapping."""
        services = self.data.get("services")
        return services if isinstance(services, dict) else {}

    def place(self, path: Path) -> Place:
        """Where the key or item `path` is written, or its nearest ancestor."""
        return Place(str(self.path), *self.document.place(path).key)

    def problem(self, path: Path, message: str, hint: str) -> Problem:
        """A problem with what stands at `path`."""
        place = self.place(path)
        return Problem(place.file, place.line, place.column, message, hint)


def read_compose_file(path: FilePath) -> ComposeFile:
    """Read and look through one file; whatever is wrong with it is in `problems`."""

    def failed(line: int, column: int, message: str, hint: str, text: str = "") -> ComposeFile:
        return ComposeFile(path, text, Document(), (Problem(str(path), line, column, message, hint),))

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return failed(0, 0, "there is no such file", "write it, or remove what names it")
    except OSError as error:
        return failed(0, 0, f"it cannot be read: {error.strerror}", "look at its kind, owner and permissions")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        return failed(line, column, "this byte is not UTF-8", "save the file as UTF-8")
    newline = "\r\n" if "\r\n" in text else "\n"
    file = ComposeFile(path, text.replace("\r\n", "\n"), Document(), newline=newline)
    if faults := list(_line_faults(file.text)):
        return replace(file, problems=tuple(_problem(path, fault) for fault in faults))
    try:
        file = replace(file, document=read_yaml(file.text))
    except NotYaml as error:
        return replace(file, problems=(_problem(path, error.fault),))
    problems = (*(_problem(path, fault) for fault in file.document.faults), *_structure_problems(file))
    return replace(file, problems=problems, warnings=tuple(_port_warnings(file)))


def read_yaml(text: str) -> Document:
    """The text of a Compose file as a document. Raises NotYaml."""
    return read_document(_without_harmless_tabs(text), COMPOSE)


def _problem(path: FilePath, fault: Fault) -> Problem:
    return Problem(str(path), fault.line, fault.column, fault.message, fault.hint)


def _line_faults(text: str) -> Iterator[Fault]:
    """Mistakes that are seen in the lines themselves, where a YAML reader would say something that helps less."""
    if text.startswith(_BOM):
        yield Fault(1, 1, "the file starts with a byte order mark", "save it as UTF-8 without BOM")
    lines = text.split("\n")
    conflict = [number for number, line in enumerate(lines, 1) if _CONFLICT.match(line)]
    # A line of ======= alone may be text of a block; a conflict has its two ends.
    if any(lines[number - 1].startswith("<<<<<<<") for number in conflict):
        for number in conflict:
            message = "a merge conflict was left here (<<<<<<<, =======, >>>>>>>)"
            yield Fault(number, 1, message, "keep one of the two sides and remove the marker lines")
        return
    tabs = tab_lines(text)
    if tabs:
        also = f", and in {len(tabs) - 1} more" if len(tabs) > 1 else ""
        column = lines[tabs[0] - 1].index("\t") + 1
        yield Fault(
            tabs[0],
            column,
            f"a tab stands where YAML wants spaces{also}",
            "indent with spaces, two for each level",
        )


def tab_lines(text: str) -> list[int]:
    """The lines that are indented with a tab and that a YAML reader stops at; none, when the file is sound."""
    lines = text.split("\n")
    found = [number for number, line in enumerate(lines, 1) if "\t" in line[: len(line) - len(line.lstrip())]]
    if not found:
        return []
    try:
        read_yaml(text)
    except NotYaml as error:
        return [number for number in found if lines[number - 1].strip()] if "tab" in error.fault.message else []
    return []  # inside a block text (|), where a tab is a character like another


def _without_harmless_tabs(text: str) -> str:
    """Tabs after the first character of a line as spaces: Compose takes them, the reader here does not.

    What a text holds is not looked at here, so that it does not matter that tabs in texts go as well.
    """
    if "\t" not in text:
        return text
    lines = []
    for line in text.split("\n"):
        body = line.lstrip()
        lines.append(line[: len(line) - len(body)] + body.replace("\t", " ") if body else "")
    return "\n".join(lines)


def _structure_problems(file: ComposeFile) -> Iterator[Problem]:
    """A file that is no mapping, and port pairs that became mappings (`- 8080: 80`)."""
    if file.document.data in (None, {}):
        yield Problem(str(file.path), 1, 1, "this file is empty", "write services: and below it each service")
    elif not isinstance(file.document.data, dict):
        yield Problem(str(file.path), 1, 1, "a Compose file is a mapping (key: value)", "start with services:")
    for path, item in _ports(file):
        if isinstance(item, dict) and len(item) == 1 and _is_pair(*next(iter(item.items()))):
            message = "a port pair with a space after the colon is a mapping, not a pair"
            yield file.problem(path, message, "write it in quotes and without the space")


def _port_warnings(file: ComposeFile) -> Iterator[Problem]:
    """Unquoted pairs such as 2222:22: Compose reads them as text, readers of YAML 1.1 as a number of base 60."""
    lines = file.text.split("\n")
    for path, item in _ports(file):
        line, column = file.document.place(path).value
        if isinstance(item, str) and _BASE_60.fullmatch(item) and lines[line - 1][column - 1 :].startswith(item):
            message = (
                "this port pair without quotes is a number of base 60 to readers of YAML 1.1; Compose reads a pair"
            )
            yield file.problem(path, message, "put it into quotes")


def _ports(file: ComposeFile) -> Iterator[tuple[Path, Any]]:
    """Every entry of every service's `ports`, with its path."""
    for name, service in file.services.items():
        ports = service.get("ports") if isinstance(service, dict) else None
        for index, item in enumerate(ports) if isinstance(ports, list) else ():
            yield ("services", name, "ports", index), item


def _is_pair(key: str, value: object) -> bool:
    return bool(_PORTS.fullmatch(key) and _PORTS.fullmatch(str(value)))
