"""Variables in Compose files: which a text refers to, where, and what a simple one stands for.

Only as much of interpolation as is needed to find files and to say where a variable stands; the values of the model
are Compose's. Syntax: compose-spec, 12-interpolation.md; the names' form: compose-go, template/template.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath

import yaml

from homelab_pipelines.migration.compose_file import ComposeFile
from homelab_pipelines.migration.stack import Place

_REFERENCE = re.compile(
    r"\$(?:\$|\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)(?P<rest>[^}]?)|(?P<named>[A-Za-z_][A-Za-z0-9_]*))"
)
_WHOLE = re.compile(
    r"\$\$|\$(?P<named>[A-Za-z_]\w*)|\$\{(?P<braced>[A-Za-z_]\w*)(?P<operator>:?[-+?])?(?P<word>[^{}]*)\}"
)
_ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*[=:]\s*(.*?)\s*$")


def split(text: str, separator: str) -> list[str]:
    """Split at `separator`, but not inside of ${…}: `${A:-/x}:/y` → `${A:-/x}`, `/y`."""
    parts, depth = [""], 0
    for index, character in enumerate(text):
        depth += text.startswith("${", index)
        depth -= character == "}" and depth > 0
        if character == separator and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def pattern(text: str) -> re.Pattern[str]:
    """What a text can have become when its variables had their values: `a-${B}` → `a-.*`."""
    parts, depth, literal, index = [""], 0, "", 0
    while index < len(text):
        if not depth and text.startswith("$$", index):
            literal, index = literal + "$", index + 2
        elif text.startswith("${", index):
            parts[-1] += "" if depth else re.escape(literal)
            literal, depth, index = "" if not depth else literal, depth + 1, index + 2
        elif depth:
            depth -= text[index] == "}"
            parts[-1] += "" if depth else ".*"
            index += 1
        elif named := re.compile(r"\$[A-Za-z_]\w*").match(text, index):
            parts[-1] += f"{re.escape(literal)}.*"
            literal, index = "", named.end()
        else:
            literal, index = literal + text[index], index + 1
    return re.compile(parts[-1] + re.escape(literal), re.DOTALL)


def references(file: ComposeFile, names: frozenset[str]) -> Iterator[tuple[str, Place]]:
    """Where values of the file refer to one of `names` without saying what stands in for it when it is not set."""
    line_starts = [0]
    for line in file.text.split("\n"):
        line_starts.append(line_starts[-1] + len(line) + 1)
    is_key = False
    for token in yaml.scan(file.text.replace("\t", " ")):
        if isinstance(token, yaml.ScalarToken) and not is_key:
            start, end = token.start_mark, token.end_mark
            for match in _REFERENCE.finditer(file.text, start.index, end.index):
                name = match["named"] or (match["braced"] if match["rest"] == "" else None)
                if name in names:
                    line = start.line + file.text.count("\n", start.index, match.start())
                    yield name, Place(str(file.path), line + 1, match.start() - line_starts[line] + 1)
        is_key = isinstance(token, yaml.KeyToken)


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """A text with its variables' values; what is nested is left as it is, and so names no file."""

    def value(match: re.Match[str]) -> str:
        name, operator, word = match["named"] or match["braced"], match["operator"] or "", match["word"] or ""
        if name is None:
            return "$"
        given = variables.get(name, "")
        is_set = bool(given) if operator.startswith(":") else name in variables
        if operator.endswith("+"):
            return word if is_set else ""
        return given if is_set or not operator.endswith("-") else word

    return _WHOLE.sub(value, text)


def read_env_file(path: FilePath) -> dict[str, str]:
    """The variables of a `.env` file with their values; of one that cannot be read none, which Compose will say."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        if (match := _ASSIGNMENT.match(line)) and not line.lstrip().startswith("#"):
            name, value = match.groups()
            if len(value) > 1 and value[0] in "'\"" and value[0] in value[1:]:
                value = value[1 : value.index(value[0], 1)]
            else:
                value = re.split(r"\s#", value)[0].rstrip()
            found[name] = substitute(value, found)
    return found
