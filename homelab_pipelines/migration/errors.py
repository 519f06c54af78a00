"""The errors of migration: one family, each saying what failed, on what, why, and the next command.

A Compose project with mistakes is `stack.StackInvalid`, which has a place for each of them.
"""

from __future__ import annotations

from homelab_pipelines.inventory.problems import ActionableError


class MigrationError(ActionableError):
    """Anything that migration refuses or fails to do: `what` it was about, `why` not, and the `next_step`."""


class ProgramMissing(MigrationError):
    """A program that migration runs is not installed, or does not run."""
