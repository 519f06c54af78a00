"""Finished containers and pods of runs: which may go, and removing them. What has them is a `Backend`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from homelab_pipelines.housekeeping.errors import HousekeepingError


@dataclass(frozen=True)
class Worker:
    """What carried out a run: a container or a Job. `ended` is None while it may still do something."""

    backend: str
    id: str
    name: str
    run_id: str
    state: str
    ended: datetime | None

    def __str__(self) -> str:
        return f"{self.backend} {self.name} of run {self.run_id}"


class Backend(Protocol):
    """Where the workers of one deployment are."""

    def workers(self) -> list[Worker]:
        """Those that carry this deployment's label. Raises HousekeepingError."""

    def remove(self, worker: Worker) -> None:
        """Remove a finished one; one that is gone already is no error. Raises HousekeepingError."""


@dataclass
class Reaped:
    """`removed`; `left`, with why each stays; and `failed`, with why each could not be removed."""

    removed: list[Worker] = field(default_factory=list)
    left: list[tuple[Worker, str]] = field(default_factory=list)
    failed: list[tuple[Worker, str]] = field(default_factory=list)


def reap(
    backends: Sequence[Backend],
    has_ended: Callable[[str], bool | None],
    older_than: timedelta,
    now: datetime,
    dry_run: bool = False,
) -> Reaped:
    """Remove workers that ended longer than `older_than` ago.

    `has_ended` says of a run's id whether the run has ended, or None where there is no such run any more. A run that
    goes on keeps its worker, ended or not: who looks after that run must still be able to see how it ended.
    """
    done = Reaped()
    for backend in backends:
        for worker in backend.workers():
            if worker.ended is None:
                done.left.append((worker, f"it is {worker.state}"))
            elif has_ended(worker.run_id) is False:
                done.left.append((worker, "its run has not ended"))
            elif now - worker.ended < older_than:
                done.left.append(
                    (worker, f"it ended at {worker.ended:%Y-%m-%d %H:%M} UTC, which is not long enough ago")
                )
            elif dry_run:
                done.removed.append(worker)
            else:
                try:
                    backend.remove(worker)
                    done.removed.append(worker)
                except HousekeepingError as error:
                    done.failed.append((worker, error.why))
    return done
