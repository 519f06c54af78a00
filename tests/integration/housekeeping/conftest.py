"""Instances of Dagster with a little history of their own, in SQLite files and in databases of real servers."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._serdes import serialize_value

from tests.integration.house import REPOSITORY
from tests.peers.postgres import FreshDatabase, PostgresPeer, server_of

# What an event refers to by its id; the ids are others in another storage, what they lead to is not.
_IDS = re.compile(r'("storage_id": |"dagster/input_event_pointer/[^"]*": ")\d+')


@pytest.fixture(scope="session")
def peer() -> PostgresPeer:
    """PostgreSQL 15, which a bare Debian machine has."""
    return server_of(15)


@pytest.fixture
def storage(peer: PostgresPeer) -> Iterator[FreshDatabase]:
    """An empty database for a storage."""
    database = peer.create_database()
    yield database
    peer.drop_database(database.name)


@dg.asset
def source(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
    context.log.info("between two events that others refer to")
    return dg.MaterializeResult(metadata={"bytes": 1})


@dg.asset(
    deps=[source],
    check_specs=[dg.AssetCheckSpec("whole", asset="copy")],
    partitions_def=dg.StaticPartitionsDefinition(["first", "second"]),
)
def copy(context: dg.AssetExecutionContext) -> Iterator[Any]:
    context.log.info("copying")
    yield dg.AssetObservation("copy", partition=context.partition_key, metadata={"seen": 2})
    yield dg.MaterializeResult(metadata={"bytes": 2})
    yield dg.AssetCheckResult(passed=context.partition_key == "first")


@dg.asset_check(asset=source, name="readable")
def readable() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True, metadata={"rows": 3})


SMALL = dg.Definitions(assets=[source, copy], asset_checks=[readable])


def materialize(instance: dg.DagsterInstance, partition: str = "first") -> str:
    """A run of all assets and checks; its id."""
    job = SMALL.resolve_implicit_global_asset_job_def()
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    return job.execute_in_process(instance=instance, partition_key=partition, run_config=quiet).run_id


def settings_of(home: Path, database: FreshDatabase | None = None) -> Path:
    """Write the project's dagster.yaml into `home`, with a storage in PostgreSQL where one is given."""
    home.mkdir(parents=True, exist_ok=True)
    if database is None:
        shutil.copy(REPOSITORY / "deploy/local/dagster.yaml", home)
        return home
    settings = yaml.safe_load((REPOSITORY / "deploy/local/dagster.yaml").read_text())
    peer = database.server
    names = {"username": peer.user, "password": peer.password, "hostname": peer.host, "db_name": database.name}
    reach = {**names, "port": peer.port, "scheme": "postgresql+psycopg2"}
    settings["storage"] = {"postgres": {"postgres_db": reach}}
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    return home


def seen(instance: dg.DagsterInstance) -> dict[str, Any]:
    """All that the UI shows of an instance's history, with the ids of events left out."""
    runs = instance.get_run_records(ascending=True)
    assets = instance.all_asset_keys()
    latest = instance.get_latest_materialization_events(list(assets))
    states = instance.all_instigator_state()
    checks = instance.event_log_storage.get_asset_check_summary_records(
        [key for run in runs for key in _checks(instance, run.dagster_run.run_id)]
    )
    return {
        "runs": [(each.dagster_run, each.create_timestamp, each.start_time, each.end_time) for each in runs],
        "events": {
            each.dagster_run.run_id: [_text(entry) for entry in instance.all_logs(each.dagster_run.run_id)]
            for each in runs
        },
        "assets": {key.to_user_string(): event and _text(event) for key, event in latest.items()},
        "last runs": {
            each.asset_entry.asset_key: each.asset_entry.last_run_id
            for each in instance.get_asset_records(list(assets))
        },
        "partitions": {
            key.to_user_string(): {
                name: _text(
                    instance.event_log_storage.get_event_records(dg.EventRecordsFilter(event, key, [name]))[0][1]
                )
                for name in instance.get_materialized_partitions(key)
                for event in [dg.DagsterEventType.ASSET_MATERIALIZATION]
            }
            for key in assets
        },
        "observations": {
            key.to_user_string(): [
                _text(each.event_log_entry) for each in instance.fetch_observations(key, 100).records
            ]
            for key in assets
        },
        "checks": {
            str(key): (each.last_check_execution_record and each.last_check_execution_record.status, each.last_run_id)
            for key, each in checks.items()
        },
        "ticks": {
            state.instigator_name: [
                (tick.tick_id, tick.status, tick.timestamp, tick.run_ids)
                for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id)
            ]
            for state in states
        },
        "pools": instance.event_log_storage.get_pool_limits(),
        "dynamic partitions": instance.get_dynamic_partitions("discs"),
    }


def _checks(instance: dg.DagsterInstance, run_id: str) -> list[dg.AssetCheckKey]:
    events = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    return [each.get_dagster_event().asset_check_evaluation_data.asset_check_key for each in events]


def _text(entry: dg.EventLogEntry) -> str:
    return _IDS.sub(r"\1", serialize_value(entry))
