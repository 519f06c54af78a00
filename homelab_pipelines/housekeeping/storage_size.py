"""How large an instance's storage is: by table or file, its compute logs, and how much is in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import sqlalchemy as db
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.runs.schema import SnapshotsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

from homelab_pipelines.housekeeping.errors import HousekeepingError
from homelab_pipelines.housekeeping.history_rows import count_of
from homelab_pipelines.housekeeping.sqlite_storage import reading

EVENTS = SqlEventLogStorageTable


@dataclass(frozen=True)
class StorageSize:
    """`parts`: bytes by table (PostgreSQL) or by file (SQLite; all files of runs together).

    `compute_log_bytes` is None where the logs are not on a disk of this machine.
    """

    kind: str
    parts: dict[str, int]
    compute_log_bytes: int | None
    runs: int
    events: int
    snapshots: int

    @property
    def storage_bytes(self) -> int:
        """All but the compute logs."""
        return sum(self.parts.values())

    @property
    def bytes(self) -> int:
        """With the compute logs, where they are known."""
        return self.storage_bytes + (self.compute_log_bytes or 0)


def storage_size(instance: dg.DagsterInstance) -> StorageSize:
    """Measure an instance. Raises HousekeepingError where its storage is none of SQL."""
    events, runs = instance.event_log_storage, instance.run_storage
    if not isinstance(events, SqlEventLogStorage) or not isinstance(runs, SqlRunStorage):
        raise HousekeepingError("measuring the storage", f"it is {type(events).__name__}, not SQL")
    with runs.connect() as connection:
        snapshots = count_of(connection, SnapshotsTable)
    if isinstance(events, SqliteEventLogStorage):
        kind, parts, count = "SQLite", _files(events), _events_of_files(events)
    else:
        with events.index_connection() as connection:
            kind, parts = "PostgreSQL", _tables(connection)
            count = count_of(connection, EVENTS)
    return StorageSize(kind, parts, _compute_logs(instance), instance.get_runs_count(), count, snapshots)


def _tables(connection: db.Connection) -> dict[str, int]:
    """Bytes by table, each with its indexes and what is stored beside it (TOAST), largest first."""
    query = db.text(
        "SELECT relname, pg_total_relation_size(oid) FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace ORDER BY 2 DESC, 1"
    )
    return {str(name): int(size) for name, size in connection.execute(query)}


def _files(events: SqliteEventLogStorage) -> dict[str, int]:
    """Bytes by database of the usual layout, with the changes that wait beside each."""
    runs = Path(events.path_for_shard("index")).parent
    places = {"history/runs.db": [runs.parent / "runs.db"], "history/runs/index.db": [runs / "index.db"]}
    places["schedules/schedules.db"] = [runs.parent.parent / "schedules/schedules.db"]
    places["history/runs, one file a run"] = _run_files(events)
    return {name: sum(_with_changes(path) for path in paths) for name, paths in places.items()}


def _with_changes(path: Path) -> int:
    return sum(_bytes(each) for each in (path, path.with_name(f"{path.name}-wal")))


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # it went meanwhile, or there is none
        return 0


def _events_of_files(events: SqliteEventLogStorage) -> int:
    """Those of all runs and of none. Not through Dagster, which looks at each file's form first, for 25 ms."""
    total = 0
    for path in _run_files(events):
        try:
            with reading(path, in_use=True) as connection:
                total += count_of(connection, EVENTS)
        except db.exc.OperationalError:  # it went meanwhile, or has just been made and is empty
            continue
    return total


def _run_files(events: SqliteEventLogStorage) -> list[Path]:
    return [path for path in Path(events.path_for_shard("index")).parent.glob("*.db") if path.name != "index.db"]


def _compute_logs(instance: dg.DagsterInstance) -> int | None:
    """Bytes of what steps printed, where that is kept in a folder."""
    manager = instance.compute_log_manager
    if not isinstance(manager, LocalComputeLogManager):
        return None
    folder = Path(manager.get_captured_local_path(["any"], "out")).parent
    return sum(_bytes(path) for path in folder.rglob("*") if path.is_file())
