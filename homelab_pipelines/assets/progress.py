"""How far a step is: to the run's log in tenths, and all of it to whoever watches the run in the same process."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg

Progress = Callable[[str, int, int], None]
"""Told the engine's step, and the bytes so far and those expected (0: not known). The resource `progress`."""


def no_progress(step: str, done: int, expected: int) -> None:
    """Nobody watches."""


class StepProgress:
    """Reports a step when it begins, and a stream at every tenth of it, to the run's log; everything to `watcher`."""

    def __init__(self, context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, watcher: Progress) -> None:
        self._log = context.log
        self._watcher = watcher
        self._last: tuple[str, int] = ("", -1)

    def __call__(self, step: str, done: int, expected: int) -> None:
        """As `Progress`."""
        self._watcher(step, done, expected)
        kind = "recording" if step.startswith("recording ") else step
        tenth = min(10, done * 10 // expected) if expected else 0
        if (kind, tenth) != self._last and (kind != self._last[0] or tenth > self._last[1]):
            self._last = (kind, tenth)
            self._log.info(f"{kind}: {done / 1e6:.0f} of {expected / 1e6:.0f} MB" if expected else kind)
