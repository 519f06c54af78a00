"""A deployment's history moved to PostgreSQL: sensors go on where they were, nobody is told twice, new runs work."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import DagsterEventType

from homelab_pipelines.housekeeping.move_history import move_history
from homelab_pipelines.housekeeping.sqlite_storage import SqliteStorage
from homelab_pipelines.local_deployment import Deployment, graphql, launch, run_state, running
from tests.integration.house import House, fill
from tests.integration.housekeeping.conftest import seen, settings_of
from tests.integration.housekeeping.test_move_history import url_of
from tests.peers.ports import free_port
from tests.peers.postgres import FreshDatabase, PostgresPeer
from tests.peers.receiver import http_receiver

pytestmark = pytest.mark.postgres
_FAILURES = "{ runsOrError(filter: {statuses: [FAILURE]}) { ... on Runs { results { runId } } } }"


def until(true: Callable[[], object], otherwise: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.2)


def ended(deployment: Deployment, run_id: str) -> str:
    until(lambda: run_state(deployment, run_id).ended, f"run {run_id} does not end")
    return run_state(deployment, run_id).status


def cursor(instance: dg.DagsterInstance, sensor: str) -> int:
    """The id of the event that an alert sensor has looked at last."""
    [state] = [each for each in instance.all_instigator_state() if each.instigator_name == sensor]
    return int(json.loads(state.instigator_data.cursor)["record_id"])  # type: ignore[union-attr, arg-type]


def test_deployment_goes_on_in_postgresql(tmp_path: Path, peer: PostgresPeer, storage: FreshDatabase) -> None:
    photos = f"photos_{secrets.token_hex(4)}"
    peer.create_database(photos)
    fill(peer, photos, 10)
    changes = {"backups": {"targets": {"usb": None}}, "alerts": {"to": [{"file": "secrets/alerts"}]}}
    house = House(tmp_path / "house", peer, [photos], changes)
    old_home, new_home = house.home, tmp_path / "new"
    with http_receiver() as receiver:
        house.write_secret("alerts", receiver.alert_address)
        old = Deployment(house.inventory, old_home, free_port())
        with running(old):
            assert ended(old, launch(old, "nightly_backup")) == "SUCCESS"
            house.write_secret("password", "wrong")
            failed = launch(old, "nightly_backup")
            assert ended(old, failed) == "FAILURE"
            until(lambda: receiver.alerts(failed), "no alert comes")
            house.write_secret("password", peer.password)
        told = len(receiver.alerts(failed))
        with sqlite3.connect(old_home / "dagster/history/runs.db") as connection:  # so that it need not be waited for
            connection.execute("UPDATE daemon_heartbeats SET timestamp = datetime('now', '-60 seconds')")
        source = SqliteStorage.of(old.dagster_home)
        source.expect_unused(lambda text: None)
        assert move_history(source, url_of(storage), lambda *_: None).kept_cursors == []
        settings_of(new_home / "dagster", storage)
        with (
            dg.DagsterInstance.from_config(str(old.dagster_home)) as before,
            dg.DagsterInstance.from_config(str(new_home / "dagster")) as after,
        ):
            history = seen(before)
            assert len(history["ticks"]["alert_on_failed_run"]) > 0 and len(history["events"]) == 2
            assert seen(after) == history
            for instance in (before, after):
                newer = instance.fetch_run_status_changes(DagsterEventType.RUN_FAILURE, limit=10, cursor=None).records
                assert [each.storage_id for each in newer] == [cursor(instance, "alert_on_failed_run")]
        new = Deployment(house.inventory, new_home, free_port())
        with running(new):
            found = graphql(new, _FAILURES)["runsOrError"]["results"]
            assert [each["runId"] for each in found] == [failed], "as the UI shows it"
            run_id = launch(new, "nightly_backup")
            assert ended(new, run_id) == "SUCCESS"
            house.write_secret("password", "wrong")
            again = launch(new, "nightly_backup")
            assert ended(new, again) == "FAILURE"
            until(lambda: receiver.alerts(again), "no alert comes")
        assert len(receiver.alerts(failed)) == told, "told once, and not again after the move"
    peer.drop_database(photos)
