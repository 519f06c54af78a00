"""From the file to the model: `load` for code that needs a homelab, `check` for people and editors: its mistakes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from homelab_pipelines.inventory.document import Document, NotYaml, read_document
from homelab_pipelines.inventory.model import Homelab, findings
from homelab_pipelines.inventory.problems import Finding, InventoryInvalid, Path, Problem, noun

__all__ = ["Homelab", "InventoryInvalid", "Problem", "check", "examine", "load", "located", "sound_parts"]

_INIT = "homelab init writes one to start from"


def load(path: FilePath | str) -> Homelab:
    """Read homelab.yaml. Raises InventoryInvalid with every mistake in it, also when there is no such file."""
    homelab, problems = examine(path)
    if problems or homelab is None:
        raise InventoryInvalid(problems)
    return homelab


def check(path: FilePath | str) -> list[Problem]:
    """All mistakes in homelab.yaml, in the order of its lines; an empty list when `load` would succeed."""
    return examine(path)[1]


def sound_parts(path: FilePath | str) -> Homelab | None:
    """What can be used of an inventory with mistakes, without the parts that are wrong; None when nothing can."""
    return examine(path)[0]


def located(path: FilePath | str, findings: Iterable[Finding]) -> list[Problem]:
    """Findings that came up in use, as problems of the file as it is now; of the whole of it when it cannot be read."""
    file = str(path)
    try:
        document = read_document(_text(FilePath(path), file))
    except (InventoryInvalid, NotYaml):
        return [Problem(file, 0, 0, finding.message, finding.hint) for finding in findings]
    return [_problem(file, document, finding) for finding in findings]


def examine(path: FilePath | str) -> tuple[Homelab | None, list[Problem]]:
    """The `sound_parts` of an inventory, and all mistakes in it."""
    file = str(path)
    try:
        document = read_document(_text(FilePath(path), file))
    except InventoryInvalid as error:
        return None, list(error.problems)
    except NotYaml as error:
        fault = error.fault
        return None, [Problem(file, fault.line, fault.column, fault.message, fault.hint)]
    problems = [Problem(file, fault.line, fault.column, fault.message, fault.hint) for fault in document.faults]
    if document.data is None:
        return None, problems or [Problem(file, 1, 1, "this file holds no homelab: it is empty", _INIT)]
    if not isinstance(document.data, dict):
        message = f"a homelab is a mapping (key: value), here stands {noun(document.data)}"
        return None, [*problems, Problem(file, *document.place(()).value, message, "start with homelab: <its name>")]
    homelab, found = _validate(document.data, FilePath(path).absolute().parent)
    problems += [_problem(file, document, finding) for finding in found]
    return homelab, sorted(set(problems), key=lambda problem: (problem.line, problem.column, problem.message))


def _text(path: FilePath, file: str) -> str:
    def whole(message: str, hint: str) -> InventoryInvalid:
        return InventoryInvalid([Problem(file, 0, 0, message, hint)])

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise whole("there is no such file", _INIT) from None
    except IsADirectoryError:
        raise whole("this is a directory", f"name the file in it: {path / 'homelab.yaml'}") from None
    except OSError as error:
        raise whole(f"it cannot be read: {error.strerror}", "look at its owner and permissions") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
        problem = Problem(file, line, column, "this byte is not UTF-8", "save the file as UTF-8")
        raise InventoryInvalid([problem]) from None


def _problem(file: str, document: Document, finding: Finding) -> Problem:
    place = document.place(finding.path)
    line, column = place.key if finding.at == "key" else place.value
    return Problem(file, line, column, finding.message, finding.hint)


def _validate(data: dict[str, Any], base_dir: FilePath) -> tuple[Homelab | None, list[Finding]]:
    """The homelab, and what is wrong with it; where parts are wrong, the sound ones are still compared."""
    errors: list[Finding] = []
    wrong: list[Path] = []
    sound: dict[str, Any] = copy.deepcopy(data)
    homelab = None
    # Each round takes out what is wrong; taking out a required key makes its parent wrong in the next round.
    while homelab is None:
        try:
            homelab = Homelab.model_validate(sound)
        except ValidationError as error:
            # Only who made a mistake pays for the import: it builds the JSON Schema to know what would have been right.
            from homelab_pipelines.inventory.translate import translate

            found = [translate(detail) for detail in error.errors(include_url=False)]
            errors += found if not errors else []
            # A name that is missing at the root is made up, so nothing rests on it.
            wrong += [finding.path for finding in found if finding.path]
            taken_out = [_take_out(sound, finding.path) for finding in found]
            if True not in taken_out:
                return None, errors
    between = [finding for finding in findings(homelab, base_dir) if not _concerns(finding, wrong)]
    return homelab, errors + between


def _take_out(data: dict[str, Any], path: Path) -> bool:
    """Remove what `path` leads to, a whole list for one item; at the root, make up the name. False: nothing changed."""
    keys = list(_keys(path))
    if not keys:
        named = "homelab" in data
        data.setdefault("homelab", "unnamed")
        return not named
    here: Any = data
    for key in keys[:-1]:
        here = here.get(key, {})
    present = keys[-1] in here
    here.pop(keys[-1], None)
    return present


def _keys(path: Path) -> Iterator[str]:
    for step in path:
        if isinstance(step, int):
            return
        yield step


def _concerns(finding: Finding, wrong: list[Path]) -> bool:
    """Whether a finding rests on a part that was taken out."""
    return any(about[: len(path)] == path[: len(about)] for about in finding.about for path in wrong)
