"""What can be wrong with an inventory, and how it is said: `Problem`, `Finding`, and the error of validators.

Beside them `ActionableError`, which the errors of all engines are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic_core import PydanticCustomError

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One mistake and where it stands. Line and column count from 1; both are 0 for the file as a whole."""

    file: str
    line: int
    column: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        text = f"{place}: {self.message}"
        return f"{text}\n  {self.hint}" if self.hint else text


class InventoryInvalid(Exception):
    """The inventory cannot be used; `problems` holds every mistake that was found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class ActionableError(Exception):
    """What an engine refuses or fails to do: `what` it was about, `why` not, and the `next_step` that helps."""

    def __init__(self, what: str, why: str, next_step: str = "") -> None:
        super().__init__(what, why, next_step)
        self.what = what
        self.why = why
        self.next_step = next_step

    def __str__(self) -> str:
        message = f"{self.what}: {self.why}"
        return f"{message}\n  next: {self.next_step}" if self.next_step else message


@dataclass(frozen=True)
class Finding:
    """Something that two or more parts of an inventory disagree about.

    `path` leads to the node to show, `at` says whether its key or its value. `about` are the paths it was concluded
    from: it is dropped when one of them was itself in error, so that one mistake is not reported twice.
    """

    path: Path
    message: str
    hint: str
    about: tuple[Path, ...]
    at: Literal["key", "value"] = "value"

    def under(self, prefix: Path) -> Finding:
        """The same finding with all paths below `prefix`."""
        about = tuple(prefix + path for path in self.about)
        return Finding(prefix + self.path, self.message, self.hint, about, self.at)


def findings_under(prefix: Path, findings: Iterable[Finding]) -> Iterator[Finding]:
    """All of `findings`, with their paths below `prefix`."""
    return (finding.under(prefix) for finding in findings)


def invalid(message: str, hint: str = "") -> PydanticCustomError:
    """The error a validator raises; a ValueError for callers that use no model. Neither text may hold a secret."""
    return PydanticCustomError("inventory", "{message}", {"message": message, "hint": hint})


def risky(text: str) -> bool:
    """Whether a text is long or could carry a password: a URL, an address, an assignment, a key."""
    return len(text) > 40 or any(mark in text for mark in ("://", "@", "=", "SECRET", "\n"))


def shown(value: object) -> str:
    """`value` quoted for a message, or "this text" where it is risky to show it."""
    if not isinstance(value, str):
        return str(value) if isinstance(value, bool | int | float) else noun(value)
    return "this text" if risky(value) else f"'{value}'"


def noun(value: object) -> str:
    """What a YAML value is, in words: text, a number, a list, a mapping, true or false, nothing."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    for kind, word in (
        (str, "text"),
        (int, "a number"),
        (float, "a number with a fraction"),
        (list, "a list"),
        (dict, "a mapping"),
    ):
        if isinstance(value, kind):
            return word
    return type(value).__name__


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the nearest of `known`, or an empty text when none is near."""
    import difflib  # here, so that a sound inventory does not pay for it

    choices = {choice.lower(): choice for choice in known}
    near = difflib.get_close_matches(str(given).lower(), choices, n=1, cutoff=0.65)
    return f"did you mean '{choices[near[0]]}'?" if near else ""


def one_of(names: Iterable[str]) -> str:
    """`a, b or c`."""
    *rest, last = names
    return f"{', '.join(rest)} or {last}" if rest else last
