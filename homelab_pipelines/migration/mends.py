"""Mends of Compose files where there is one way only to mend them: as a unified diff, for a person to apply.

The diff repeats lines of the file, which may hold secrets: it is printed when asked for, and stands in no message.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from homelab_pipelines.inventory.document import NotYaml
from homelab_pipelines.migration.compose_file import ComposeFile, read_yaml, tab_lines
from homelab_pipelines.migration.stack import leaves

_TAB_WIDTHS = (2, 4, 8)
_SPACED_PAIR = re.compile(r"^(\s*-\s+)(\d{1,5}):\s+(\d{1,5})(\s*(?:#.*)?)$")
_PLAIN_PAIR = re.compile(r"^(\s*-\s+)(\d{1,5}:\d{1,5})(\s*(?:#.*)?)$")


def mend(file: ComposeFile) -> str:
    """The unified diff (`patch -p0`) that mends what is certain; empty where nothing is."""
    before = file.text.split("\n")
    text = file.text.removeprefix("\ufeff")
    after = (_without_tabs(text) if tab_lines(text) else text).split("\n")
    for problem in (*file.problems, *file.warnings):
        if "port pair" in problem.message:
            line = after[problem.line - 1]
            after[problem.line - 1] = _PLAIN_PAIR.sub(r'\1"\2"\3', _SPACED_PAIR.sub(r'\1"\2:\3"\4', line))
    gone = set(file.document.repeated)
    after = [line for number, line in enumerate(after, 1) if number not in gone]
    old, new = ([f"{line}{file.newline}" for line in side] for side in (before, after))
    return "".join(difflib.unified_diff(old, new, str(file.path), str(file.path), n=0))


def _without_tabs(text: str) -> str:
    """Spaces for the tabs of indentations, when all widths that make sense of the file mean the same; or else `text`.

    A width makes no sense when the file cannot be read with it, or leaves a key empty that another width fills.
    """
    read: list[tuple[int, str, Any]] = []
    tabs = tab_lines(text)
    for width in _TAB_WIDTHS:
        lines = text.split("\n")
        for number in tabs:
            body = lines[number - 1].lstrip()
            lines[number - 1] = lines[number - 1][: -len(body)].replace("\t", " " * width) + body
        mended = "\n".join(lines)
        try:
            data = read_yaml(mended).data
        except NotYaml:
            continue
        read.append((sum(value is None for _, value in leaves(data)), mended, data))
    sensible = [each for each in read if each[0] == min(empty for empty, _, _ in read)]
    certain = sensible and all(data == sensible[0][2] for _, _, data in sensible)
    return sensible[0][1] if certain else text
