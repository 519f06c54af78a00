"""Old runs deleted, with events and compute logs; never one that an asset's or a check's latest result is from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as db
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    AssetKeyTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from homelab_pipelines.housekeeping.errors import HousekeepingError

EVENTS, CHECKS, ASSETS = SqlEventLogStorageTable, AssetCheckExecutionsTable, AssetKeyTable
_COMPLETED = ("SUCCEEDED", "FAILED")
_CHECK_EVENTS = "ASSET_CHECK_EVALUATION%"


@dataclass
class Purged:
    """What was deleted, or would be: `runs` and `events`. `kept` are old runs with what each is still needed for.

    `logs_left` says of which runs the compute logs could not be deleted, and why.
    """

    runs: list[str] = field(default_factory=list)
    events: int = 0
    kept: dict[str, str] = field(default_factory=dict)
    logs_left: dict[str, str] = field(default_factory=dict)


def purge(
    instance: dg.DagsterInstance, older_than: timedelta, dry_run: bool, say: Callable[[str], None] = lambda text: None
) -> Purged:
    """Delete runs that ended longer than `older_than` ago, and events of that age that belong to no run.

    Whatever is the latest of its kind stays, with its whole run: for each asset and partition every kind of event; for
    each check and partition the last execution and the last that came to a result, and the materialisation it looked
    at. Runs that have not ended stay. A run goes last of all that is its own, so that the next purge finds what was
    killed half-way. Raises HousekeepingError where the instance's storage is none of SQL.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise HousekeepingError("purging old runs", f"the storage is {type(storage).__name__}, not SQL")
    before = datetime.now(UTC) - older_than
    done = Purged()
    needed = _needed(storage)
    for run in instance.get_runs(dg.RunsFilter(statuses=list(FINISHED_STATUSES), updated_before=before)):
        if reason := needed.get(run.run_id):
            done.kept[run.run_id] = reason
            continue
        done.runs.append(run.run_id)
        done.events += _count(storage, run.run_id)
        if not dry_run:
            _delete(instance, storage, run.run_id, done)
            say(f"deleted run {run.run_id} of {run.job_name}")
    done.events += _purge_runless(storage, before, dry_run)
    return done


def _needed(storage: SqlEventLogStorage) -> dict[str, str]:
    """The runs that hold something that is the latest of its kind, with what that is."""
    queries = {
        "latest {1} of {0}": db.select(EVENTS.c.run_id, EVENTS.c.asset_key, EVENTS.c.dagster_event_type).where(
            EVENTS.c.id.in_(_latest_events())
        ),
        "latest result of check {1} of {0}": db.select(CHECKS.c.run_id, CHECKS.c.asset_key, CHECKS.c.check_name).where(
            CHECKS.c.id.in_(_latest_checks())
        ),
        "what the latest check of {0} looked at": db.select(EVENTS.c.run_id, EVENTS.c.asset_key, db.null()).where(
            EVENTS.c.id.in_(
                db.select(CHECKS.c.materialization_event_storage_id).where(CHECKS.c.id.in_(_latest_checks()))
            )
        ),
        "last run of {0}": db.select(ASSETS.c.last_run_id, ASSETS.c.asset_key, db.null()),
    }
    needed: dict[str, str] = {}
    with storage.index_connection() as connection:
        for reason, query in queries.items():
            for run_id, key, what in connection.execute(query):
                if run_id:
                    named = dg.AssetKey.from_db_string(key)
                    asset = named.to_user_string() if named else key
                    needed.setdefault(run_id, reason.format(asset, str(what).lower()))
    return needed


def _latest_events() -> db.Select[Any]:
    """Ids: of each asset and partition the latest event of every kind."""
    kinds = (EVENTS.c.asset_key, EVENTS.c.partition, EVENTS.c.dagster_event_type)
    return db.select(db.func.max(EVENTS.c.id)).where(EVENTS.c.asset_key.is_not(None)).group_by(*kinds)


def _latest_checks() -> db.CompoundSelect[Any]:
    """Ids: of each check and partition the last execution, and the last that came to a result."""
    last = db.select(db.func.max(CHECKS.c.id)).group_by(CHECKS.c.asset_key, CHECKS.c.check_name, CHECKS.c.partition)
    return db.union(last, last.where(CHECKS.c.execution_status.in_(_COMPLETED)))


def _count(storage: SqlEventLogStorage, run_id: str) -> int:
    with storage.run_connection(run_id) as connection:
        query = db.select(db.func.count()).select_from(EVENTS).where(EVENTS.c.run_id == run_id)
        return int(connection.execute(query).scalar_one())


def _delete(instance: dg.DagsterInstance, storage: SqlEventLogStorage, run_id: str, done: Purged) -> None:
    try:
        instance.compute_log_manager.delete_logs(prefix=[run_id])
    except Exception as error:  # noqa: BLE001 (logs may be anywhere; the run goes all the same, and it is said)
        done.logs_left[run_id] = f"{type(error).__name__}: {error}"
    storage.delete_events(run_id)
    with storage.index_connection() as connection:
        connection.execute(CHECKS.delete().where(CHECKS.c.run_id == run_id))
    instance.run_storage.delete_run(run_id)
    if storage.is_run_sharded:
        # A database of its own for each run, which Dagster leaves behind empty.
        shard = Path(storage.path_for_shard(run_id))  # type: ignore[attr-defined]
        for path in (shard, *shard.parent.glob(f"{shard.name}-*")):
            path.unlink(missing_ok=True)


def _purge_runless(storage: SqlEventLogStorage, before: datetime, dry_run: bool) -> int:
    """Events of no run, such as changes of freshness; how many. Of checks they stay: few, and their results' own."""
    old = db.and_(
        EVENTS.c.run_id == RUNLESS_RUN_ID,
        EVENTS.c.timestamp < before.replace(tzinfo=None),
        EVENTS.c.id.not_in(_latest_events()),
        EVENTS.c.dagster_event_type.not_like(_CHECK_EVENTS),
    )
    deleted = 0
    for connected in _places(storage):
        with connected as connection:
            ids = list(connection.execute(db.select(EVENTS.c.id).where(old)).scalars())
            deleted = max(deleted, len(ids))
            if not dry_run and ids:
                connection.execute(AssetEventTagsTable.delete().where(AssetEventTagsTable.c.event_id.in_(ids)))
                connection.execute(EVENTS.delete().where(EVENTS.c.id.in_(ids)))
    return deleted


def _places(storage: SqlEventLogStorage) -> Iterator[Any]:
    """Where events of no run are: with SQLite in the index and in a database of their own."""
    yield storage.index_connection()
    if storage.is_run_sharded:
        yield storage.run_connection(RUNLESS_RUN_ID)
