"""Old runs are deleted from real storages; what the UI says of every asset and check is the same as before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as db
from dagster._core.events import DagsterEventType
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, AssetEventTagsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.test_utils import create_run_for_test

from homelab_pipelines.housekeeping.purge import purge
from homelab_pipelines.housekeeping.storage_size import storage_size
from tests.integration.housekeeping.conftest import materialize, seen, settings_of
from tests.peers.postgres import FreshDatabase

pytestmark = pytest.mark.postgres
EVERYTHING = timedelta(seconds=-5)
LATEST = ("assets", "last runs", "partitions", "checks")


@pytest.fixture(params=["sqlite", "postgresql"])
def instance(request: pytest.FixtureRequest, tmp_path: Path, storage: FreshDatabase) -> Iterator[dg.DagsterInstance]:
    home = settings_of(tmp_path / "home", storage if request.param == "postgresql" else None)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def latest(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What the UI says of assets, partitions and checks now."""
    shown = seen(instance)
    observed = {
        (name, partition): instance.event_log_storage.get_event_records(
            dg.EventRecordsFilter(DagsterEventType.ASSET_OBSERVATION, dg.AssetKey(name), [partition]), limit=1
        )
        for name, partition in (("copy", "first"), ("copy", "second"))
    }
    checks = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(dg.AssetKey("copy"), "whole"), dg.AssetCheckKey(dg.AssetKey("source"), "readable")]
    )
    records = {key: (each.id, each.run_id, each.status, each.event) for key, each in checks.items()}
    return {**{name: shown[name] for name in LATEST}, "observed": observed, "executions": records}


def rows(instance: dg.DagsterInstance, table: db.Table) -> int:
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    with storage.index_connection() as connection:
        return int(connection.execute(db.select(db.func.count()).select_from(table)).scalar_one())


def test_only_what_nothing_rests_on_is_deleted(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    oldest, only_of_second, older, newest = (
        materialize(instance, each) for each in ("first", "second", "first", "first")
    )
    goes_on = create_run_for_test(instance, "nightly_backup", status=dg.DagsterRunStatus.STARTED).run_id
    before, size = latest(instance), storage_size(instance)
    logs = Path(instance.compute_log_manager.get_captured_local_path([oldest, "x"], "out")).parent  # type: ignore[attr-defined]
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "step.out").write_text("words")

    preview = purge(instance, EVERYTHING, dry_run=True)
    assert (set(preview.runs), preview.kept.keys()) == ({oldest, older}, {only_of_second, newest})
    assert storage_size(instance).runs == size.runs and logs.exists(), "a preview deletes nothing"

    done = purge(instance, EVERYTHING, dry_run=False)
    assert (set(done.runs), done.events, done.kept) == (set(preview.runs), preview.events, preview.kept)
    assert done.events > 20 and done.logs_left == {}
    assert latest(instance) == before
    assert {run.run_id for run in instance.get_runs()} == {only_of_second, newest, goes_on}
    now = storage_size(instance)
    assert (now.runs, now.events) == (size.runs - 2, size.events - done.events)
    assert rows(instance, AssetCheckExecutionsTable) == 4, "two checks in each of two runs"
    assert not logs.exists()
    assert not list((tmp_path / "home").rglob(f"{oldest}*")), "no file of it is left"
    assert purge(instance, EVERYTHING, dry_run=False).runs == [], "nothing more to do"
    again = materialize(instance, "second")
    assert set(purge(instance, EVERYTHING, dry_run=False).runs) == {only_of_second}
    assert instance.get_latest_materialization_event(dg.AssetKey("source")).run_id == again  # type: ignore[union-attr]


def test_young_runs_stay(instance: dg.DagsterInstance) -> None:
    runs = {materialize(instance, "first") for _ in range(2)}
    assert purge(instance, timedelta(hours=1), dry_run=False).runs == []
    assert {run.run_id for run in instance.get_runs()} == runs


def test_materialisation_that_the_latest_check_looked_at_stays(instance: dg.DagsterInstance) -> None:
    """Checked then, made anew since and not checked again: which one the check is about must stay to be seen."""

    @dg.asset
    def made() -> None: ...

    @dg.asset_check(asset=made)
    def good() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

    def run(*selection: Any) -> str:
        chosen = dg.AssetSelection.assets(made) if made in selection else dg.AssetSelection.checks(good)
        chosen = chosen.without_checks() if good not in selection and made in selection else chosen
        return dg.materialize([made, good], instance=instance, selection=chosen, run_config=quiet).run_id

    materialized, checked, since, newest = run(made), run(good), run(made), run(made)
    done = purge(instance, EVERYTHING, dry_run=False)
    assert done.runs == [since]
    assert set(done.kept) == {materialized, checked, newest}
    assert done.kept[materialized] == "what the latest check of made looked at"


def test_events_of_no_run_are_purged_but_for_the_latest(instance: dg.DagsterInstance) -> None:
    key = dg.AssetKey("elsewhere")
    for number in range(3):
        instance.report_runless_asset_event(dg.AssetObservation(key, metadata={"n": number}))
        instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata={"n": number}, tags={"a": "b"}))
    tags = rows(instance, AssetEventTagsTable)
    done = purge(instance, EVERYTHING, dry_run=False)
    assert done.events == 4
    assert rows(instance, AssetEventTagsTable) <= tags
    [observed] = instance.fetch_observations(key, 10).records
    [materialized] = instance.fetch_materializations(key, 10).records
    for record in (observed.asset_observation, materialized.asset_materialization):
        assert record is not None and record.metadata["n"].value == 2


def test_size_is_what_the_disk_and_the_database_say(
    instance: dg.DagsterInstance, tmp_path: Path, storage: FreshDatabase
) -> None:
    before = storage_size(instance)
    materialize(instance)
    size = storage_size(instance)
    assert (before.runs, size.runs) == (0, 1) and size.events > before.events
    assert size.bytes == size.storage_bytes + (size.compute_log_bytes or 0)
    if size.kind == "SQLite":
        on_disk = sum(path.stat().st_size for path in (tmp_path / "home").rglob("*.db*") if path.suffix != ".db-shm")
        assert size.storage_bytes == on_disk > before.storage_bytes
    else:
        with storage.connect() as connection:
            row = connection.execute("SELECT pg_total_relation_size('event_logs')").fetchone()
        assert row == (size.parts["event_logs"],)
        assert set(size.parts) >= {"runs", "job_ticks", "asset_check_executions"}
