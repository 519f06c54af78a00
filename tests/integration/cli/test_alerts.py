"""`homelab backup` tells people itself how it went, for no sensor sees its run: alerts and pings to a real receiver."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from homelab_pipelines.resources.alerts import AlertsResource
from homelab_pipelines.schedules.alerts import TOLD_BY_TAG
from tests.integration.cli.conftest import HOMELAB, Lab, homelab
from tests.integration.house import House
from tests.peers.receiver import HttpReceiver, http_receiver

pytestmark = pytest.mark.postgres
ALERTS = {"to": [{"file": "secrets/alerts"}], "ping": {"file": "secrets/ping"}}
SECRETS = ("alerts-token-7f3a", "ping-token-9c1e")


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as found:
        yield found


@pytest.fixture
def house(lab: Lab, tmp_path: Path, receiver: HttpReceiver) -> House:
    """One database, one target, and the receiver for alerts and pings."""
    changes = {"backups": {"targets": {"usb": None}}, "alerts": ALERTS}
    made = House(tmp_path / "house", lab.peer, [lab.photos], changes)
    made.write_secret("alerts", receiver.alert_address)
    made.write_secret("ping", receiver.ping_url)
    return made


def alerts(receiver: HttpReceiver) -> list[str]:
    """All that were sent; none holds a secret."""
    found = receiver.alerts("homelab")
    assert not any(secret in text for secret in SECRETS for text in found)
    return found


def test_backup_of_all_that_goes_well_pings_start_and_success_and_alerts_nobody(
    house: House, receiver: HttpReceiver
) -> None:
    said = homelab(house.folder, "backup", "--json")
    assert said.status == 0, said.err
    assert receiver.pings(said.json["run_id"]) == ["start", "success"]
    assert alerts(receiver) == []


def test_backup_that_fails_alerts_with_the_cause_and_pings_a_failure(house: House, receiver: HttpReceiver) -> None:
    house.write_secret("password", "wrong-but-secret-0815")
    said = homelab(house.folder, "backup", "--json")
    assert said.status == 1
    (alert,) = alerts(receiver)
    assert alert.startswith("homelab: nightly_backup failed\n") and f"run {said.json['run_id']}" in alert
    assert "database_globals__main: " in alert and "password authentication failed" in alert
    assert "wrong-but-secret-0815" not in alert
    assert receiver.pings(said.json["run_id"]) == ["start", "fail"]


def test_backup_with_a_failed_check_alerts_and_pings_a_failure(house: House, receiver: HttpReceiver) -> None:
    house.write(house.changes | {"backups": {"targets": {"usb": {"require_mount": True}}}})
    said = homelab(house.folder, "backup", "--json")
    assert said.status == 1
    (alert,) = alerts(receiver)
    assert "on_every_target: missing on usb: " in alert
    assert receiver.pings(said.json["run_id"])[-1] == "fail"


def test_backup_of_one_name_alerts_of_a_failure_and_never_pings(house: House, receiver: HttpReceiver, lab: Lab) -> None:
    assert homelab(house.folder, "backup", lab.photos).status == 0
    house.write_secret("age", "not-a-key")
    assert homelab(house.folder, "backup", lab.photos).status == 1
    assert len(alerts(receiver)) == 1
    assert [path for path, _ in receiver.requests if "ping-token" in path] == [], "one database is not the whole job"


def test_backup_that_cannot_begin_alerts_and_pings_a_failure(house: House, receiver: HttpReceiver) -> None:
    house.write(house.changes | {"databases": {"main": {"include": ["*"], "at": {"port": 1}}}})
    assert homelab(house.folder, "backup").status == 1
    (alert,) = alerts(receiver)
    assert alert.startswith("homelab: nightly_backup failed\nhomelab backup broke off: ") and "refused" in alert
    assert receiver.pings("refused") == ["fail"]


def test_backup_with_a_mistake_elsewhere_in_the_inventory_alerts_with_its_place(
    house: House, receiver: HttpReceiver
) -> None:
    house.inventory.write_text(f"{house.inventory.read_text()}backup: {{}}\n")
    line = len(house.inventory.read_text().splitlines())
    assert homelab(house.folder, "backup").status == 2
    (alert,) = alerts(receiver)
    assert alert.count(f"{house.inventory}:{line}:1: unknown key 'backup'") == 1
    assert receiver.pings("unknown key") == ["fail"]


def test_undelivered_alert_is_warned_of_and_changes_nothing(house: House) -> None:
    house.write_secret("alerts", "json://127.0.0.1:1/alerts-token-7f3a")
    house.write_secret("password", "wrong")
    said = homelab(house.folder, "backup")
    assert said.status == 1
    assert "warning: alert not delivered to address 1 of 1 (json://127.0.0.1): no connection" in said.err


def test_backup_that_was_killed_is_told_of_by_the_next(house: House, receiver: HttpReceiver, lab: Lab) -> None:
    with lab.peer.connect(lab.photos) as locker:
        locker.execute("BEGIN")
        locker.execute("LOCK TABLE item IN ACCESS EXCLUSIVE MODE")
        process = subprocess.Popen((HOMELAB, "backup"), cwd=house.folder, stderr=subprocess.DEVNULL)
        until(lambda: waiting(lab), "no backup comes to the table")
        process.send_signal(signal.SIGKILL)
        process.wait()
        locker.execute("ROLLBACK")
    assert alerts(receiver) == []
    said = homelab(house.folder, "backup")
    assert said.status == 0 and "marked as failed" in said.err
    (alert,) = alerts(receiver)
    assert "the process that carried out this run was killed" in alert
    assert f"database_backup__{lab.photos}: " in alert


def waiting(lab: Lab) -> bool:
    with lab.peer.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        return connection.execute(query, (lab.photos,)).fetchone() != (0,)


def until(true: Callable[[], object], otherwise: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)


@pytest.mark.parametrize("told", [True, False])
def test_sensors_leave_a_run_alone_that_tells_of_itself(house: House, receiver: HttpReceiver, told: bool) -> None:
    """Dagster shows no such run to a sensor today; the tag holds should it ever do so."""
    definitions = house.definitions()
    repository = definitions.get_repository_def()
    house.write_secret("password", "wrong")
    with house.instance() as instance:
        result = definitions.resolve_job_def("nightly_backup").execute_in_process(
            instance=instance, raise_on_error=False, tags={TOLD_BY_TAG: "homelab backup"} if told else {}
        )
        event = next(each for each in result.all_events if each.is_run_failure)
        context: Any = dg.build_run_status_sensor_context(
            sensor_name="alert_on_failed_run",
            dagster_event=event,
            dagster_instance=instance,
            dagster_run=result.dagster_run,
            resources={"alerts": AlertsResource.of(house.configured().homelab, str(house.inventory))},
        )
        repository.get_sensor_def("alert_on_failed_run")(context.for_run_failure())
        repository.get_sensor_def("ping_fail")(context)
    assert len(receiver.requests) == (0 if told else 2)


@pytest.mark.parametrize("broken", ["homelab: [", "homelab: test\nbakups: {}\n", None])
def test_alerts_of_a_code_location_outlive_the_inventory_they_came_from(
    house: House, receiver: HttpReceiver, broken: str | None
) -> None:
    resource = house.definitions().resources["alerts"] if house.definitions().resources else None
    assert isinstance(resource, AlertsResource)
    if broken is None:
        house.inventory.unlink()
    else:
        house.inventory.write_text(broken)
    assert resource.send("homelab: nightly_backup failed", "why") == []
    assert resource.ping("fail", "why") is None
    assert [path.partition("/")[2] for path, _ in receiver.requests] == ["alerts-token-7f3a", "ping-token-9c1e/fail"]
    message = json.loads(receiver.requests[0][1])["message"]
    assert message.startswith("why\n\nThe inventory is invalid now:\n") and f"{house.inventory}:" in message
