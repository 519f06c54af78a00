"""The errors of migration: one family, each saying what failed, on what, why, and the next command.

A Compose project with mistakes is `stack.StackInvalid`, which has a place for each of them.
"""

from __future__ import annotations


class MigrationError(Exception):
    """Anything that migration refuses or fails to do: `what` it was about, `why` not, and the `next_step`."""

    def __init__(self, what: str, why: str, next_step: str = "") -> None:
        super().__init__(what, why, next_step)
        self.what = what
        self.why = why
        self.next_step = next_step

    def __str__(self) -> str:
        message = f"{self.what}: {self.why}"
        return f"{message}\n  next: {self.next_step}" if self.next_step else message


class ProgramMissing(MigrationError):
    """A program that migration runs is not installed, or does not run."""
