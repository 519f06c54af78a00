"""Every row of a history in SQLite files, in the form and with the event ids that it has in PostgreSQL."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as db
from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata, SqlEventLogStorageTable
from dagster._core.storage.runs.schema import RunStorageSqlMetadata
from dagster._core.storage.schedules.schema import InstigatorsTable, ScheduleStorageSqlMetadata

from homelab_pipelines.housekeeping.event_ids import CONSUMER_CURSOR, EventIds, unknown_cursor
from homelab_pipelines.housekeeping.sqlite_storage import SqliteStorage, reading

Row = dict[str, Any]
MIGRATIONS = "secondary_indexes"
"""Which changes of data a storage has had: each storage writes that for itself, and it is not copied."""
EVENTS = SqlEventLogStorageTable
_BATCH = 1000
_METADATA = (RunStorageSqlMetadata, ScheduleStorageSqlMetadata, SqlEventLogStorageMetadata)
# Columns with what Dagster serialised, and columns that are event ids.
_TEXTS = ("event", "last_materialization", "evaluation_event", "instigator_body", "job_body", "tick_body")
_IDS = ("event_id", "evaluation_event_storage_id", "materialization_event_storage_id")


def tables() -> list[db.Table]:
    """Every table of a history, those that others refer to first."""
    return [table for metadata in _METADATA for table in metadata.sorted_tables if table.name != MIGRATIONS]


@dataclass(frozen=True)
class TableRows:
    """A table of a history: `rows`, about how many, and, once they are read, exactly how many.

    The last is counted by the source's own databases, not by what was read.
    """

    table: db.Table
    rows: Iterator[Row]
    about: int
    exactly: Callable[[], int]


def history(source: SqliteStorage) -> Iterator[TableRows]:
    """Table by table; the rows of one are to be read before the next is asked for."""
    lengths = {run_id: _length(path) for run_id, path in source.shards().items()}
    ids = EventIds.with_room_for(max(lengths.values(), default=0))
    paths = zip(_METADATA, (source.runs, source.schedules, source.index), strict=True)
    of_table = {name: path for metadata, path in paths for name in metadata.tables}
    for table in tables():
        with reading(of_table[table.name]) as connection:
            yield (
                _all_events(source, connection, ids, sum(lengths.values()))
                if table is EVENTS
                else _all_rows(connection, table, ids)
            )


def _all_rows(connection: db.Connection, table: db.Table, ids: EventIds) -> TableRows:
    count = count_of(connection, table)
    rows = (_renumbered(table, row, ids) for row in _rows(connection, db.select(table), table))
    return TableRows(table, rows, count, lambda: count)


def _all_events(source: SqliteStorage, index: db.Connection, ids: EventIds, in_runs: int) -> TableRows:
    events = _Events(source, index, ids)
    return TableRows(EVENTS, events.rows(), in_runs, lambda: in_runs + len(events.alone))


def kept_cursors(source: SqliteStorage) -> list[str]:
    """The sensors whose cursor may hold event ids in a form that is not known: it is copied as it is."""
    with reading(source.schedules) as connection:
        bodies = list(connection.execute(db.select(InstigatorsTable.c.instigator_body)).scalars())
    return sorted(str(json.loads(body)["origin"]["job_name"]) for body in bodies if unknown_cursor(body))


def count_of(connection: db.Connection, table: db.Table) -> int:
    """The number of its rows."""
    return int(connection.execute(db.select(db.func.count()).select_from(table)).scalar_one())


def _length(path: Any) -> int:
    with reading(path) as connection:
        return count_of(connection, EVENTS)


def _rows(connection: db.Connection, query: db.Select[Any], table: db.Table) -> Iterator[Row]:
    result = connection.execute(query.order_by(table.c.id)).yield_per(_BATCH)
    return (dict(row) for row in result.mappings())


def _renumbered(table: db.Table, row: Row, ids: EventIds) -> Row:
    """A row with the new ids in everything that refers to an event."""
    for column in _TEXTS:
        if row.get(column) is not None:
            row[column] = ids.in_text(row[column])
    for column in _IDS:
        if row.get(column) is not None:
            row[column] = ids.new(row[column])
    if table.name == "asset_event_tags" and row["value"] is not None:
        row["value"] = ids.of_pointer(row["key"], row["value"])
    elif table.name == "kvs" and row["key"].startswith(CONSUMER_CURSOR):
        row["value"] = str(ids.new(int(row["value"])))
    elif table.name == "asset_keys":
        row["cached_status_data"] = None  # of partitions; it has event ids in it, and Dagster makes it anew
    return row


class _Events:
    """The events of all runs, each with an id that keeps its place among its run's and among the index's.

    `alone`: ids of those that the index has and no run's own database, as after a purge or the loss of a file.
    """

    def __init__(self, source: SqliteStorage, index: db.Connection, ids: EventIds) -> None:
        self._source = source
        self._index = index
        self._ids = ids
        self.alone: list[int] = []

    def rows(self) -> Iterator[Row]:
        """Run by run, and then those that are alone."""
        shards = self._source.shards()
        newest = self._index.execute(db.select(db.func.max(EVENTS.c.id))).scalar() or 0
        free = self._ids.new(newest + 1)
        for run_id, path in shards.items():
            last: int | None = None
            with reading(path) as connection:
                for row in self._numbered(run_id, _rows(connection, db.select(EVENTS), EVENTS)):
                    if row["id"] is not None:
                        last = max(last or 0, row["id"])
                    elif last is not None:  # after the last one that the index has
                        row["id"] = last = last + 1
                    else:  # of a run that the index does not know
                        row["id"], free = free, free + 1
                    yield _renumbered(EVENTS, row, self._ids)
        known = set(self._index.execute(db.select(EVENTS.c.run_id).distinct()).scalars())
        for run_id in sorted(known - set(shards)):
            self.alone += self._index.execute(db.select(EVENTS.c.id).where(EVENTS.c.run_id == run_id)).scalars()
        for start in range(0, len(self.alone), _BATCH):
            some = db.select(EVENTS).where(EVENTS.c.id.in_(self.alone[start : start + _BATCH]))
            for row in _rows(self._index, some, EVENTS):
                yield _renumbered(EVENTS, {**row, "id": self._ids.new(row["id"])}, self._ids)

    def _numbered(self, run_id: str, rows: Iterator[Row]) -> Iterator[Row]:
        """A run's events with new ids: those of the index by theirs, others right before the next of these, or None."""
        mirrored: dict[str, deque[int]] = defaultdict(deque)
        query = db.select(EVENTS.c.id, EVENTS.c.event).where(EVENTS.c.run_id == run_id).order_by(EVENTS.c.id)
        for old, event in self._index.execute(query):
            mirrored[event].append(old)
        waiting: list[Row] = []
        for row in rows:
            if not mirrored.get(row["event"]):
                waiting.append(row)
                continue
            new = self._ids.new(mirrored[row["event"]].popleft())
            for before, each in enumerate([*waiting, row], start=-len(waiting)):
                yield {**each, "id": new + before}
            waiting = []
        yield from ({**row, "id": None} for row in waiting)
        self.alone += [old for left in mirrored.values() for old in left]
