"""What one failure does to the rest of a run: nothing; what is tried again, and what is not."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator

import dagster as dg
import pytest
from psycopg import sql

from tests.integration.house import House, checks, failures, fill, retried, skipped
from tests.peers.faulty_proxy import FaultyProxy
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.postgres
Houses = Callable[..., House]
Instances = Callable[[House], dg.DagsterInstance]


@pytest.fixture
def other(peer: PostgresPeer, photos: str) -> Iterator[str]:
    """A second database beside `photos`."""
    name = f"{photos}_other"
    peer.create_database(name)
    fill(peer, name)
    yield name
    peer.drop_database(name)


@pytest.fixture
def reader(peer: PostgresPeer, photos: str) -> Iterator[tuple[str, str]]:
    """A role, with its password, that may read `photos` alone."""
    name, password = f"reader_{secrets.token_hex(4)}", secrets.token_urlsafe(12)
    role = sql.Identifier(name)
    with peer.connect(photos) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password)))
        connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(role))
    yield name, password
    with peer.connect(photos) as connection:
        connection.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))


def test_database_dropped_fails_alone_and_says_so(
    house: Houses, instance_of: Instances, photos: str, other: str, peer: PostgresPeer
) -> None:
    here = house(databases={"main": {"include": [photos, other]}}, backups={"targets": {"usb": None}})
    definitions = here.definitions()
    peer.drop_database(other)
    result = here.run(instance_of(here), definitions)
    assert not result.success
    why = failures(result)
    assert set(why) == {f"database__{other}"}
    assert f'database "{other}" does not exist' in why[f"database__{other}"]
    assert checks(result)[f"database_backup/{photos} restorable"].passed
    assert checks(result)["database_globals/main restorable"].passed
    assert skipped(result) == {
        f"database_backup__{other}",
        f"database_backup_restorable__{other}",
        "backup_retention__nas",
    }
    gone = checks(result)["database_globals/main every_database_is_backed_up"]
    assert not gone.passed and f"'{other}' is gone" in gone.description


def test_database_without_permission_fails_alone_and_is_not_retried(
    house: Houses, instance_of: Instances, photos: str, other: str, reader: tuple[str, str]
) -> None:
    name, password = reader
    here = house(databases={"main": {"include": [photos, other], "user": name}}, backups={"targets": {"usb": None}})
    here.write_secret("password", password)
    result = here.run(instance_of(here))
    why = failures(result)
    assert set(why) == {f"database_backup__{other}"}
    assert "permission denied for table item" in why[f"database_backup__{other}"]
    assert retried(result) == set()
    assert checks(result)[f"database_backup/{photos} restorable"].passed
    assert here.records("nas", f"main/{other}") == []


def test_server_down_then_up_is_tried_again_and_succeeds(
    house: Houses, instance_of: Instances, photos: str, peer: PostgresPeer
) -> None:
    with FaultyProxy(peer.port) as proxy:
        here = house(databases={"main": {"at": {"port": proxy.port}}}, backups={"targets": {"usb": None}})
        proxy.set("refuse")

        def mend(event: dg.DagsterEvent) -> None:
            if event.event_type_value == "STEP_UP_FOR_RETRY":
                proxy.set("pass")

        result = here.run(instance_of(here), on_event=mend)
    assert result.success
    assert retried(result) == {f"database__{photos}"} or retried(result) == {"database_globals__main"}


def test_server_down_for_good_fails_after_the_retries_saying_where(
    house: Houses, instance_of: Instances, photos: str, peer: PostgresPeer
) -> None:
    with FaultyProxy(peer.port) as proxy:
        here = house(databases={"main": {"at": {"port": proxy.port}}}, backups={"targets": {"usb": None}})
        proxy.set("refuse")
        definitions = here.definitions()
        job = definitions.resolve_job_def("nightly_backup")
        result = job.execute_in_process(
            instance=instance_of(here), asset_selection=[dg.AssetKey(["database", photos])], raise_on_error=False
        )
    tries = [event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]
    assert len(tries) == 2
    message = failures(result)[f"database__{photos}"]
    assert f"127.0.0.1:{proxy.port}" in message and "refused" in message and "next: " in message


def test_password_refused_is_not_retried_and_never_said(house: Houses, instance_of: Instances, photos: str) -> None:
    here = house(backups={"targets": {"usb": None}})
    here.write_secret("password", "wrong-but-secret-4711")
    started = time.monotonic()
    instance = instance_of(here)
    result = here.run(instance)
    assert time.monotonic() - started < 10
    why = failures(result)
    assert set(why) == {f"database__{photos}", "database_globals__main"}
    assert all("password authentication failed" in each and "next: " in each for each in why.values())
    assert retried(result) == set()
    for path in here.home.rglob("*"):
        assert not path.is_file() or b"wrong-but-secret-4711" not in path.read_bytes(), path
