"""Code server, daemon and webserver as `homelab up` starts them: two runs at once, alerts, a killed worker."""

from __future__ import annotations

import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import dagster as dg
import pytest
import yaml

from homelab_pipelines.local_deployment import Deployment, graphql, launch, reload, run_state, running
from tests.integration.house import REPOSITORY, House, fill, locked_table
from tests.peers.ports import free_port
from tests.peers.postgres import PostgresPeer
from tests.peers.receiver import HttpReceiver, http_receiver

pytestmark = pytest.mark.postgres
POOL = "postgres__main"


@dataclass
class Up:
    """A deployment that runs."""

    house: House
    deployment: Deployment
    instance: dg.DagsterInstance
    receiver: HttpReceiver
    photos: str

    def launch(self) -> str:
        return launch(self.deployment, "nightly_backup")

    def wait(self, run_id: str, seconds: float = 90) -> str:
        """The status that a run ends with."""
        until(lambda: run_state(self.deployment, run_id).ended, seconds, f"run {run_id} does not end")
        return run_state(self.deployment, run_id).status

    def started_again(self, run_id: str) -> str:
        """The run that Dagster started in place of one whose process died."""

        def again() -> Sequence[dg.DagsterRun]:
            return self.instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": run_id}))

        until(again, 60, f"run {run_id} is not started again")
        return again()[0].run_id

    def alert(self, run_id: str) -> str:
        """The alert about a run."""
        until(lambda: self.receiver.alerts(run_id), 60, "no alert comes")
        return self.receiver.alerts(run_id)[0]

    def pings(self, run_id: str, last: str) -> list[str]:
        """The pings of a run, once `last` is one of them."""
        until(lambda: last in self.receiver.pings(run_id), 60, f"{last} is not pinged")
        return self.receiver.pings(run_id)


def until(true: Callable[[], object], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{otherwise} within {seconds:.0f} s"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, peer: PostgresPeer) -> Iterator[Up]:
    photos = f"photos_{secrets.token_hex(4)}"
    peer.create_database(photos)
    fill(peer, photos)
    changes = {
        "backups": {"targets": {"usb": None}},
        "alerts": {"to": [{"file": "secrets/alerts"}], "ping": {"file": "secrets/ping"}},
    }
    house = House(tmp_path_factory.mktemp("up") / "house", peer, [photos], changes)
    with http_receiver() as receiver:
        house.write_secret("alerts", receiver.alert_address)
        house.write_secret("ping", receiver.ping_url)
        deployment = Deployment(house.inventory, house.home, free_port())
        # The project's own settings, looking more often for runs that died.
        settings = yaml.safe_load((REPOSITORY / "deploy/local/dagster.yaml").read_text())
        settings["run_monitoring"] |= {"poll_interval_seconds": 2, "free_slots_after_run_end_seconds": 1}
        deployment.dagster_home.mkdir(parents=True)
        (deployment.dagster_home / "dagster.yaml").write_text(yaml.safe_dump(settings))
        with running(deployment), house.instance() as instance:
            yield Up(house, deployment, instance, receiver, photos)
    peer.drop_database(photos)


def test_two_runs_at_once_never_use_one_server_at_the_same_time(up: Up, peer: PostgresPeer) -> None:
    with locked_table(peer, up.photos) as come:
        runs = [up.launch(), up.launch()]
        come()
        time.sleep(6)  # longer than the daemon and a waiting run take to look again
        assert len(claimed(up.instance)) == 1, "one run has the server; the other is queued or waits for it"
        with peer.connect() as connection:
            sessions = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'homelab_pipelines'"
                " AND wait_event_type = 'Lock'"
            ).fetchone()
        assert sessions == (1,)
    assert [up.wait(run_id) for run_id in runs] == ["SUCCESS", "SUCCESS"]
    spans = [pooled_spans(up.instance, run_id) for run_id in runs]
    assert all(len(found) == 3 for found in spans), spans
    for (step, begin, end), (other, other_begin, other_end) in product(*spans):
        assert end <= other_begin or other_end <= begin, f"{step} and {other} overlapped"
    assert len(up.house.records("nas", f"main/{up.photos}")) == 2
    for run_id in runs:
        pings = up.pings(run_id, "success")
        assert pings in (["start", "success"], ["success"]), "a start after the end would say that the run goes on"
        assert up.receiver.alerts(run_id) == []


def test_daemon_ticks_and_the_run_of_the_schedule_is_a_process_of_this_machine(up: Up) -> None:
    def started() -> Sequence[dg.DagsterRun]:
        return up.instance.get_runs(dg.RunsFilter(tags={"dagster/schedule_name": "nightly_backup_schedule"}))

    sound = up.house.inventory.read_text()
    often = yaml.safe_load(sound)
    often["backups"]["schedule"] = "* * * * *"
    up.house.inventory.write_text(yaml.safe_dump(often))
    try:
        reload(up.deployment)
        until(started, 90, "no tick of the schedule")
    finally:
        up.house.inventory.write_text(sound)
        reload(up.deployment)
    for run in started():
        assert run.job_name == "nightly_backup"
        assert up.wait(run.run_id) == "SUCCESS"


def test_failed_run_alert_names_job_step_and_cause_and_no_secret(up: Up) -> None:
    up.house.write_secret("password", "wrong-but-secret-0815")
    try:
        run_id = up.launch()
        assert up.wait(run_id) == "FAILURE"
    finally:
        up.house.write_secret("password", up.house.peer.password)
    alert = up.alert(run_id)
    assert alert.startswith("homelab: nightly_backup failed\n")
    assert f"database__{up.photos}: " in alert and "database_globals__main: " in alert
    assert "password authentication failed" in alert and "next: check user, password" in alert
    for secret in ("wrong-but-secret-0815", up.house.peer.password, up.house.identity, "token-7f3a", "token-9c1e"):
        assert secret not in alert
    assert "success" not in up.pings(run_id, "fail")


def test_failed_check_of_a_run_that_ended_well_is_told_and_pinged_as_failure(up: Up) -> None:
    # Both the code server and the resources read the inventory again at use.
    up.house.write(
        up.house.changes | {"backups": {"targets": {"usb": {"require_mount": True}}, "promise": {"age": "30h"}}}
    )
    try:
        run_id = up.launch()
        assert up.wait(run_id) == "SUCCESS", "nas alone has a step for its retention, until the code is reloaded"
    finally:
        up.house.write(up.house.changes)
    alert = up.alert(run_id)
    assert alert.startswith("homelab: nightly_backup ended, with 2 failed checks\n")
    assert f"database_backup/{up.photos} on_every_target: missing on usb: " in alert
    assert "success" not in up.pings(run_id, "fail")


def test_inventory_broken_at_night_is_told_to_whom_it_named_before(up: Up) -> None:
    sound = up.house.inventory.read_text()
    up.house.inventory.write_text(f"{sound}backup: {{}}\n")
    line = len(sound.splitlines()) + 1
    try:
        run_id = up.launch()
        assert up.wait(run_id) == "FAILURE"
        alert = up.alert(run_id)
        assert "success" not in up.pings(run_id, "fail")
    finally:
        up.house.inventory.write_text(sound)
    assert alert.startswith("homelab: nightly_backup failed\n")
    assert f"{up.house.inventory}:{line}:1: unknown key 'backup'" in alert
    assert "token-7f3a" not in alert
    # Its process died before any step, so Dagster tries the run once more, well or not by the time that the file is
    # mended; the next test wants the server for itself.
    up.wait(up.started_again(run_id))


def test_worker_killed_run_fails_soon_gives_its_pool_back_and_is_started_again(up: Up, peer: PostgresPeer) -> None:
    with locked_table(peer, up.photos) as come:
        run_id = up.launch()
        come()
        assert claimed(up.instance) == {run_id}
        os.kill(worker_of(up.instance, run_id), signal.SIGKILL)
        assert up.wait(run_id, 30) == "FAILURE"
        until(lambda: run_id not in claimed(up.instance), 30, "the killed run's pool is not given back")
    alert = up.alert(run_id)
    assert alert.startswith("homelab: nightly_backup failed\n")
    assert f"database_backup__{up.photos}: " in alert and "SIGKILL" in alert, "the step and the cause"
    assert up.wait(up.started_again(run_id)) == "SUCCESS"


def test_worker_told_to_end_does_so_at_once_with_a_reason_and_is_started_again(up: Up, peer: PostgresPeer) -> None:
    """Dagster would take SIGTERM for a failure of the step, and start the step again by its retry policy."""
    with locked_table(peer, up.photos) as come:
        run_id = up.launch()
        come()
        os.kill(worker_of(up.instance, run_id), signal.SIGTERM)
        assert up.wait(run_id, 20) == "FAILURE"
    alert = up.alert(run_id)
    assert "its process was told to end: " in alert and "Execution was interrupted unexpectedly" in alert, alert
    assert up.wait(up.started_again(run_id)) == "SUCCESS"


def test_run_ended_from_the_ui_is_cancelled_at_once(up: Up, peer: PostgresPeer) -> None:
    mutation = """mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"""
    with locked_table(peer, up.photos) as come:
        run_id = up.launch()
        come()
        answer = graphql(up.deployment, mutation, {"id": run_id})["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess"
        assert up.wait(run_id, 20) == "CANCELED"
    assert claimed(up.instance) == set()


def pooled_spans(instance: dg.DagsterInstance, run_id: str) -> list[tuple[str, float, float]]:
    """Step, begin and end of every step that uses the server."""
    times: dict[str, list[float]] = {}
    kinds = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_SUCCESS}
    for entry in instance.all_logs(run_id, of_type=kinds):
        if re.match("database__|database_backup__|database_globals__", entry.step_key or ""):
            times.setdefault(str(entry.step_key), []).append(entry.timestamp)
    return [(step, found[0], found[1]) for step, found in times.items()]


def claimed(instance: dg.DagsterInstance) -> set[str]:
    """The runs that hold the server's pool."""
    info = instance.event_log_storage.get_concurrency_info(POOL)
    return {slot.run_id for slot in info.claimed_slots}


def worker_of(instance: dg.DagsterInstance, run_id: str) -> int:
    """The process of a run, as its own log says."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        for name, value in (event.engine_event_data.metadata if event else {}).items():
            if name == "pid":
                pid = int(str(value.value))
                assert b"multiprocessing" in Path(f"/proc/{pid}/cmdline").read_bytes() or pid > 1
                return pid
    raise AssertionError("the run's log names no process")
