"""A run history of real runs, moved from SQLite to a real PostgreSQL: the same afterwards, or nothing of it."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as db
from dagster._core.events import DagsterEventType, StepMaterializationData
from dagster._core.test_utils import create_run_for_test
from psycopg.conninfo import make_conninfo

from homelab_pipelines.commands.moving import move_run_history
from homelab_pipelines.housekeeping.errors import MoveFailed, MoveRefused
from homelab_pipelines.housekeeping.move_history import move_history
from homelab_pipelines.housekeeping.sqlite_storage import SqliteStorage
from homelab_pipelines.local_deployment import Deployment, DeploymentFailed, state_held
from tests.integration.cli.conftest import HOMELAB, Said, homelab
from tests.integration.housekeeping.conftest import materialize, seen, settings_of
from tests.peers.postgres import FreshDatabase

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def moved_from(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of state with a history: runs of both partitions, a failed check, an event of no run."""
    home = tmp_path_factory.mktemp("small") / "home"
    with dg.DagsterInstance.from_config(str(settings_of(home / "dagster"))) as instance:
        for partition in ("first", "second", "first"):
            materialize(instance, partition)
        instance.report_runless_asset_event(dg.AssetObservation("elsewhere", metadata={"bytes": 4}))
        instance.add_dynamic_partitions("discs", ["a", "b"])
        instance.event_log_storage.set_concurrency_slots("postgres__main", 2)
    return home


@pytest.fixture
def home(moved_from: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    return Path(shutil.copytree(moved_from, tmp_path / "home"))


def move(home: Path, storage: FreshDatabase, *options: str) -> Said:
    peer = storage.server
    into = f"postgresql://{peer.user}@{peer.host}:{peer.port}/{storage.name}"
    return homelab(home.parent, "--home", str(home), "move-history", "--into", into, *options, PGPASSWORD=peer.password)


def dsn_of(storage: FreshDatabase) -> str:
    peer = storage.server
    return make_conninfo(host=peer.host, port=peer.port, user=peer.user, password=peer.password, dbname=storage.name)


def url_of(storage: FreshDatabase) -> db.URL:
    peer = storage.server
    reach = {"host": peer.host, "port": str(peer.port)}
    return db.URL.create("postgresql+psycopg2", peer.user, peer.password, database=storage.name, query=reach)


def digests(folder: Path) -> dict[str, str]:
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def rows(storage: FreshDatabase, table: str) -> int:
    with storage.connect() as connection:
        present = connection.execute("SELECT to_regclass(%s)", (table,)).fetchone()
        if present == (None,):
            return 0
        count = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # type: ignore[arg-type]
    assert count is not None
    return int(count[0])


def test_everything_is_the_same_afterwards_and_goes_on(home: Path, storage: FreshDatabase, tmp_path: Path) -> None:
    before = digests(home / "dagster")
    said = move(home, storage, "--json")
    assert said.status == 0, said.err
    assert digests(home / "dagster") == before, "nothing of the source is written"
    counts = said.json["copied"]
    assert {name: rows(storage, name) for name in counts} == counts
    assert (counts["runs"], said.json["replaced"], said.json["kept_cursors"]) == (3, {}, [])
    with (
        dg.DagsterInstance.from_config(str(home / "dagster")) as old,
        dg.DagsterInstance.from_config(str(settings_of(tmp_path / "new", storage))) as new,
    ):
        assert seen(new) == seen(old)
        expect_pointers_lead_to_the_same(old, new)
        newest = new.event_log_storage.get_maximum_record_id()
        run_id = materialize(new, "second")
        records = new.get_records_for_run(run_id).records
        assert newest is not None and records[0].storage_id > newest, "new events come after the old ones"
        assert len(new.get_runs()) == 4
        latest = new.get_latest_materialization_event(dg.AssetKey("source"))
        assert latest is not None and latest.run_id == run_id


def expect_pointers_lead_to_the_same(old: dg.DagsterInstance, new: dg.DagsterInstance) -> None:
    """What a check looked at, and what an asset was made from, is the same event by its new id."""

    def pointers(instance: dg.DagsterInstance) -> list[Any]:
        found: list[Any] = []
        for run in instance.get_runs():
            for entry in instance.all_logs(run.run_id):
                event = entry.dagster_event
                if event is not None and event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
                    data = event.asset_check_evaluation_data
                    if data.target_materialization_data is not None:
                        found.append(led_to(instance, data.asset_key, data.target_materialization_data.storage_id))
                if event is not None and event.is_step_materialization:
                    tags = event.step_materialization_data.materialization.tags or {}
                    found += [
                        led_to(instance, dg.AssetKey("source"), int(value))
                        for name, value in tags.items()
                        if name == "dagster/input_event_pointer/source"
                    ]
        return found

    def led_to(instance: dg.DagsterInstance, key: dg.AssetKey, storage_id: int) -> tuple[str, float]:
        query = dg.EventRecordsFilter(DagsterEventType.ASSET_MATERIALIZATION, key, storage_ids=[storage_id])
        [record] = instance.event_log_storage.get_event_records(query)
        return record.event_log_entry.run_id, record.event_log_entry.timestamp

    found = pointers(old)
    assert len(found) > 5, "of a check and of an asset in each of three runs"
    assert pointers(new) == found


def test_second_move_is_refused_and_changes_nothing(home: Path, storage: FreshDatabase) -> None:
    move_history(SqliteStorage.of(home / "dagster"), url_of(storage), lambda *_: None)
    events = rows(storage, "event_logs")
    again = move(home, storage, "--json")
    assert again.status == 1
    assert "the target has a history: 3 runs" in again.json["error"]["why"]
    assert rows(storage, "event_logs") == events


def test_what_a_start_of_dagster_left_in_the_target_is_replaced_and_said(
    home: Path, storage: FreshDatabase, tmp_path: Path
) -> None:
    with dg.DagsterInstance.from_config(str(settings_of(tmp_path / "new", storage))) as new:
        new.event_log_storage.set_concurrency_slots("postgres__main", 1)
    with storage.connect() as connection:  # as the freshness daemon writes it
        connection.execute(
            "INSERT INTO event_logs (run_id, event, dagster_event_type) VALUES ('', '{}', 'FRESHNESS_STATE_CHANGE')"
        )
    moved = move_history(SqliteStorage.of(home / "dagster"), url_of(storage), lambda *_: None)
    assert moved.replaced == {"concurrency_limits": 1, "concurrency_slots": 1, "event_logs": 1}
    assert rows(storage, "concurrency_slots") == 2


def test_target_with_events_of_no_run_that_say_something_is_refused(
    home: Path, storage: FreshDatabase, tmp_path: Path
) -> None:
    with dg.DagsterInstance.from_config(str(settings_of(tmp_path / "new", storage))) as new:
        new.report_runless_asset_event(dg.AssetObservation("elsewhere"))
    with pytest.raises(MoveRefused, match="the target has a history: 0 runs, 1 events"):
        move_history(SqliteStorage.of(home / "dagster"), url_of(storage), lambda *_: None)
    assert rows(storage, "event_logs") == 1


def refused(home: Path, storage: FreshDatabase) -> str:
    """Why a move is refused, after which the target has nothing."""
    with pytest.raises((MoveRefused, DeploymentFailed)) as caught:
        move_run_history(Deployment(home.parent / "homelab.yaml", home), dsn_of(storage), False)
    assert rows(storage, "runs") == rows(storage, "event_logs") == 0
    return str(caught.value)


def test_target_that_somebody_uses_is_refused(home: Path, storage: FreshDatabase) -> None:
    with storage.connect():
        assert "other sessions use the target: 1, one of them 127.0.0.1" in refused(home, storage)


def test_target_with_other_tables_is_refused(home: Path, storage: FreshDatabase) -> None:
    with storage.connect() as connection:
        connection.execute("CREATE TABLE album ()")
    assert "tables that are not Dagster's: album" in refused(home, storage)


def test_target_that_does_not_answer_is_named_without_its_password(home: Path) -> None:
    said = homelab(
        home.parent, "--home", str(home), "move-history", "--into", "postgresql://me@127.0.0.1:1/x", PGPASSWORD="0815-x"
    )
    assert said.status == 1
    assert "moving the run history to 127.0.0.1:1/x: " in said.err and "refused" in said.err
    assert "0815-x" not in said.err


def test_source_with_a_run_that_goes_on_is_refused(home: Path, storage: FreshDatabase) -> None:
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        create_run_for_test(instance, "nightly_backup", status=dg.DagsterRunStatus.STARTED)
    assert "runs of it have not ended: 1 STARTED" in refused(home, storage)


def test_source_of_a_running_homelab_up_is_refused(home: Path, storage: FreshDatabase) -> None:
    with state_held(Deployment(home.parent / "homelab.yaml", home)):
        assert "another `homelab up` runs" in refused(home, storage)


def test_source_of_another_version_is_refused(home: Path, storage: FreshDatabase) -> None:
    with sqlite3.connect(home / "dagster/schedules/schedules.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '567bc23fd1ac'")
    why = refused(home, storage)
    assert "schedules.db has the form 567bc23fd1ac" in why and "dagster instance migrate" in why


def test_source_that_missed_a_change_of_data_is_refused(home: Path, storage: FreshDatabase) -> None:
    with sqlite3.connect(home / "dagster/history/runs.db") as connection:
        connection.execute("DELETE FROM secondary_indexes WHERE name = 'run_start_end_overwritten'")
    why = refused(home, storage)
    assert "never brought up to date: run_start_end_overwritten" in why and "dagster instance reindex" in why


def test_source_that_is_not_there_is_refused(tmp_path: Path, storage: FreshDatabase) -> None:
    assert f"there is no {tmp_path}/home/dagster" in refused(tmp_path / "home", storage)


def test_source_in_postgresql_is_refused(tmp_path: Path, storage: FreshDatabase) -> None:
    settings_of(tmp_path / "home/dagster", storage)
    why = refused(tmp_path / "home", storage)
    assert "names DagsterPostgresStorage, not SQLite" in why and storage.server.password not in why


def beat(home: Path, seconds_ago: float) -> None:
    with sqlite3.connect(home / "dagster/history/runs.db") as connection:
        connection.execute(
            "INSERT OR REPLACE INTO daemon_heartbeats (daemon_type, daemon_id, timestamp, body)"
            " VALUES ('SENSOR', 'one', datetime('now', ?), '{}')",
            (f"-{seconds_ago} seconds",),
        )


def test_source_of_a_daemon_that_still_works_is_refused(home: Path) -> None:
    beat(home, 10)
    waits: list[str] = []

    def say(text: str) -> None:
        waits.append(text)
        beat(home, 0)

    with pytest.raises(MoveRefused, match="a daemon works with"):
        SqliteStorage.of(home / "dagster").expect_unused(say)
    assert len(waits) == 1 and waits[0].startswith("a daemon was there 1")


def test_source_of_a_daemon_that_is_gone_is_waited_for_and_taken(home: Path) -> None:
    beat(home, 39)
    waits: list[str] = []
    SqliteStorage.of(home / "dagster").expect_unused(waits.append)
    assert len(waits) == 1


def test_source_that_is_written_to_meanwhile_gives_nothing(home: Path, storage: FreshDatabase) -> None:
    def progress(table: str, done: int, expected: int) -> None:
        if table == "event_logs" and done:
            with sqlite3.connect(home / "dagster/history/runs.db") as connection:
                connection.execute("INSERT INTO kvs (key, value) VALUES ('meanwhile', '1')")

    with pytest.raises(MoveFailed, match="written to meanwhile"):
        move_history(SqliteStorage.of(home / "dagster"), url_of(storage), progress)
    assert rows(storage, "runs") == rows(storage, "event_logs") == 0


def test_events_whose_runs_file_is_lost_come_from_the_index(home: Path, storage: FreshDatabase, tmp_path: Path) -> None:
    with dg.DagsterInstance.from_config(str(home / "dagster")) as old:
        lost = old.get_runs()[0].run_id
        materializations = old.fetch_materializations(dg.AssetKey("source"), 10).records
    (home / f"dagster/history/runs/{lost}.db").unlink()
    move_history(SqliteStorage.of(home / "dagster"), url_of(storage), lambda *_: None)
    with dg.DagsterInstance.from_config(str(settings_of(tmp_path / "new", storage))) as new:
        found = new.fetch_materializations(dg.AssetKey("source"), 10).records
        assert [each.event_log_entry for each in found] == [each.event_log_entry for each in materializations]
        types = [each.dagster_event_type for each in new.all_logs(lost)]
    assert DagsterEventType.RUN_START in types and types[-1] == DagsterEventType.RUN_SUCCESS


def test_from_one_postgresql_to_another_it_goes_with_pg_dump(
    home: Path, storage: FreshDatabase, tmp_path: Path
) -> None:
    """As the guide has it from Docker to Kubernetes: over the tables that a start of Dagster has made there."""
    move_history(SqliteStorage.of(home / "dagster"), url_of(storage), lambda *_: None)
    peer, other = storage.server, storage.server.create_database()
    try:
        with dg.DagsterInstance.from_config(str(settings_of(tmp_path / "other", other))):
            pass
        reach = ("--host", peer.host, "--port", str(peer.port), "--username", peer.user)
        environment, programs = {**os.environ, "PGPASSWORD": peer.password}, peer.installation.bin
        dump = (str(programs / "pg_dump"), *reach, "--format", "custom", "--no-owner", storage.name)
        dumped = subprocess.run(dump, env=environment, capture_output=True, check=True).stdout
        options = ("--clean", "--if-exists", "--no-owner", "--single-transaction")
        restore = (str(programs / "pg_restore"), *reach, "--dbname", other.name, *options)
        subprocess.run(restore, env=environment, input=dumped, capture_output=True, check=True)
        with (
            dg.DagsterInstance.from_config(str(home / "dagster")) as old,
            dg.DagsterInstance.from_config(str(tmp_path / "other")) as new,
        ):
            assert seen(new) == seen(old)
            materialize(new)
            assert len(new.get_runs()) == 4
    finally:
        peer.drop_database(other.name)


def test_events_of_runs_at_the_same_time_keep_both_their_orders(storage: FreshDatabase, tmp_path: Path) -> None:
    """Of each run as it logged them, and of an asset as its events came, from whichever run."""
    key = dg.AssetKey("both")

    def say(instance: dg.DagsterInstance, run: dg.DagsterRun, number: int) -> None:
        instance.report_engine_event(f"before {number}", run)
        made = dg.AssetMaterialization(key, metadata={"number": number})
        event = dg.DagsterEvent(
            DagsterEventType.ASSET_MATERIALIZATION.value,
            run.job_name,
            event_specific_data=StepMaterializationData(made),
        )
        instance.report_dagster_event(event, run.run_id)
        instance.report_engine_event(f"after {number}", run)

    with dg.DagsterInstance.from_config(str(settings_of(tmp_path / "home/dagster"))) as old:
        runs = [create_run_for_test(old, "job", status=dg.DagsterRunStatus.SUCCESS) for _ in range(3)]
        turns = [0, 1, 0, 2, 2, 1, 0, 1, 0]
        for number, turn in enumerate(turns):
            say(old, runs[turn], number)
        move_history(SqliteStorage.of(tmp_path / "home/dagster"), url_of(storage), lambda *_: None)
        with dg.DagsterInstance.from_config(str(settings_of(tmp_path / "new", storage))) as new:
            assert seen(new) == seen(old)
            made = new.fetch_materializations(key, 100, ascending=True).records
            numbers = [
                each.asset_materialization.metadata["number"].value for each in made if each.asset_materialization
            ]
            assert numbers == list(range(len(turns)))
            for turn, run in enumerate(runs):
                said = [each.get_dagster_event().message for each in new.all_logs(run.run_id)]
                engine = [text for text in said if text is not None and text.startswith(("before", "after"))]
                mine = [number for number, each in enumerate(turns) if each == turn]
                assert engine == [text for number in mine for text in (f"before {number}", f"after {number}")]


@pytest.fixture
def large(home: Path) -> Iterator[Path]:
    """The same with 30,000 events more in one run."""
    run = max((home / "dagster/history/runs").glob("*-*.db"))
    with sqlite3.connect(run) as connection:
        connection.execute(
            "INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp)"
            " WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)"
            " SELECT run_id, event, dagster_event_type, timestamp FROM n, (SELECT * FROM event_logs WHERE event LIKE"
            " '%between two events%' LIMIT 1)"
        )
    yield home


def test_killed_move_leaves_nothing_and_can_be_repeated(large: Path, storage: FreshDatabase) -> None:
    peer = storage.server
    into = f"postgresql://{peer.user}@{peer.host}:{peer.port}/{storage.name}"
    words = (HOMELAB, "--home", str(large), "move-history", "--into", into)
    with peer.connect() as looker, subprocess.Popen(words, env={**os.environ, "PGPASSWORD": peer.password}) as process:
        query = (
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND backend_xid IS NOT NULL"
            " AND query LIKE 'INSERT INTO event_logs%%'"
        )
        deadline = time.monotonic() + 60
        while (found := looker.execute(query, (storage.name,)).fetchone()) is None:
            assert process.poll() is None and time.monotonic() < deadline, (
                "the move is over, or never came to the events"
            )
        process.send_signal(signal.SIGKILL)
        process.wait()
        while looker.execute("SELECT FROM pg_stat_activity WHERE pid = %s", found).fetchone():
            time.sleep(0.05)
    assert rows(storage, "runs") == rows(storage, "event_logs") == rows(storage, "snapshots") == 0
    said = move(large, storage, "--json")
    assert said.json["copied"]["event_logs"] > 30_000
    assert rows(storage, "event_logs") == said.json["copied"]["event_logs"]
