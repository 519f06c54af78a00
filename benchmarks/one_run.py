"""One capture or one restore in a process of its own, so that its memory can be measured. Started by the benchmarks.

Reads its task as JSON from standard input, prints what it measured as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import peak_bytes
from homelab_pipelines.backup.capture import CaptureOptions, capture_database
from homelab_pipelines.backup.connection import Connection, Direct
from homelab_pipelines.backup.fan_out import Target
from homelab_pipelines.backup.pipeline import Encoding
from homelab_pipelines.backup.records import read_backup
from homelab_pipelines.backup.restore import restore_database
from homelab_pipelines.backup.restored_copy import RestoreOptions
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.backup.unpack import parse_identities


class Steps:
    """How long each step took, by what the engine reports as it goes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._step = "starting"
        self._since = time.monotonic()

    def __call__(self, step: str, done: int, expected: int) -> None:
        """The engine's progress."""
        if step.startswith("recording "):  # beside the dump, in another thread
            return
        self.enter(step)

    def enter(self, step: str) -> None:
        """From now on it is this step."""
        if step != self._step:
            now = time.monotonic()
            self.seconds[self._step] = self.seconds.get(self._step, 0.0) + now - self._since
            self._step, self._since = step, now


def capture(task: dict[str, Any]) -> dict[str, Any]:
    """Back up one database to a folder, with `hash_limit` bytes as the largest table that is hashed."""
    connection = _connection(task)
    target = Target(DirectoryStore(task["store"], "benchmark"))
    options = CaptureOptions(Encoding(3, tuple(task["recipients"])), task["hash_limit"])
    steps = Steps()
    result = capture_database(connection, task["database"], [target], options, steps)
    steps.enter("end")
    dump = result.manifest.object("dump")
    if result.missed or dump is None:
        raise SystemExit(f"the backup is not complete: {result.missed}")
    return {
        "source": result.manifest.source,
        "id": result.manifest.id,
        "rows": result.manifest.evidence.rows,
        "bytes": dump.bytes,
        "content_bytes": dump.content_bytes,
        "steps": steps.seconds,
    }


def restore(task: dict[str, Any]) -> dict[str, Any]:
    """Restore a backup into a scratch server, as a verification does, and compare it with its evidence."""
    store = DirectoryStore(task["store"], "benchmark")
    record = read_backup(store, task["source"], task["id"])
    options = RestoreOptions(jobs=task["jobs"], scratch=True, folder=Path(task["folder"]))
    steps = Steps()
    result = restore_database(
        _connection(task), "restored", store, record, parse_identities(task["identity"]), options, steps
    )
    steps.enter("end")
    if result.differences:
        raise SystemExit(f"the restored copy differs: {result.differences}")
    return {"steps": steps.seconds}


def main() -> None:
    """Do the task of standard input."""
    task = json.load(sys.stdin)
    started = time.monotonic()
    measured = {"capture": capture, "restore": restore}[task["do"]](task)
    seconds = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    processor = used.ru_utime + used.ru_stime
    print(json.dumps({**measured, "seconds": seconds, "peak_bytes": peak_bytes(), "processor_seconds": processor}))


def _connection(task: dict[str, Any]) -> Connection:
    return Connection("benchmark", Direct(task["host"], task["port"], sslmode="disable"), user=task["user"])


if __name__ == "__main__":
    main()
