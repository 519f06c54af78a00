"""The errors of housekeeping: one family, each saying what failed, on what, why, and the next command."""

from __future__ import annotations


class HousekeepingError(Exception):
    """Anything that housekeeping refuses or fails to do: `what` it was about, `why` not, and the `next_step`."""

    def __init__(self, what: str, why: str, next_step: str = "") -> None:
        super().__init__(what, why, next_step)
        self.what = what
        self.why = why
        self.next_step = next_step

    def __str__(self) -> str:
        message = f"{self.what}: {self.why}"
        return f"{message}\n  next: {self.next_step}" if self.next_step else message


class MoveRefused(HousekeepingError):
    """The history may not be moved from there, or not to there, as things are; nothing was changed."""


class MoveFailed(HousekeepingError):
    """A move was begun and not finished; the target is as it was before, but for empty tables."""
