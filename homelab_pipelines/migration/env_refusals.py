"""Why Compose cannot read a `.env` file, as a problem with its line. Nothing that stands in the file is repeated."""

from __future__ import annotations

import re
from pathlib import Path as FilePath

from homelab_pipelines.inventory.problems import Problem
from homelab_pipelines.migration.project_files import Project

_FAILED = re.compile(r"failed to read (?P<file>[^\n]+?): (?:line (?P<line>\d+): )?(?P<why>.+)", re.DOTALL)
_LINE = "write one NAME=value a line; put a value with spaces into quotes"
# Compose's words (compose-go, dotenv/parser.go) → ours.
_WHY = (
    ("key cannot contain a space", "this line is no NAME=value: there is a space in the name", _LINE),
    ("unexpected character", "this line is no NAME=value", _LINE),
    ("unterminated quoted value", "a quote is not closed here, or in a line above", "add the closing quote"),
    ("is missing a value", "a variable must be set here, and is not", "set it in a line above"),
    ("Invalid template", "a variable is written wrong here", "write ${NAME}; put a value with a $ into single quotes"),
    ("", "Compose cannot read this file", _LINE),
)


def env_refusal(project: Project, text: str) -> Problem | None:
    """The problem of an env file that Compose's message is about, if it is about one."""
    if (match := _FAILED.search(text)) is None:
        return None
    path = next(
        (layer.base / ".env" for layer in project.layers if str((layer.base / ".env").absolute()) == match["file"]),
        FilePath(match["file"]),
    )
    message, hint = next((message, hint) for words, message, hint in _WHY if words in match["why"])
    return Problem(str(path), int(match["line"] or _line_of(path, match["why"])), 1, message, hint)


def _line_of(path: FilePath, why: str) -> int:
    """The line that refers to a variable that is missing, or that leaves a ${ open."""
    named = re.search(r"required variable (\w+)", why)
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return 1
    for number, line in enumerate(lines, 1):
        if (f"${{{named[1]}" in line) if named else line.count("${") > line.count("}"):
            return number
    return 1
