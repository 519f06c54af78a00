"""The errors of housekeeping: one family, each saying what failed, on what, why, and the next command."""

from __future__ import annotations

from homelab_pipelines.inventory.problems import ActionableError


class HousekeepingError(ActionableError):
    """Anything that housekeeping refuses or fails to do: `what` it was about, `why` not, and the `next_step`."""


class MoveRefused(HousekeepingError):
    """The history may not be moved from there, or not to there, as things are; nothing was changed."""


class MoveFailed(HousekeepingError):
    """A move was begun and not finished; the target is as it was before, but for empty tables."""
