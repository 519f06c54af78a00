"""Restoring: into a new database or over an existing one, onto newer servers; and what a failure leaves behind."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from homelab_pipelines.backup import programs
from homelab_pipelines.backup import restore as restore_module
from homelab_pipelines.backup.capture import capture_globals
from homelab_pipelines.backup.errors import (
    BackupError,
    RestoreFailed,
    SourceRefused,
    StoreUnavailable,
    VerificationImpossible,
)
from homelab_pipelines.backup.fan_out import Target
from homelab_pipelines.backup.local_server import scratch_server
from homelab_pipelines.backup.manifest import Manifest
from homelab_pipelines.backup.programs import server_for
from homelab_pipelines.backup.restore import restore_database
from homelab_pipelines.backup.restored_copy import RestoreOptions, compare_restored
from homelab_pipelines.backup.restored_roles import restore_globals, roles_dropped_on_failure
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.backup.verify import ScratchChoice, verify_backup
from tests.integration.backup.conftest import (
    PLAIN,
    capture,
    connection_to,
    count,
    databases_kept,
    databases_of,
    directory_store,
    record_of,
    restore,
)
from tests.peers import missing
from tests.peers.postgres import FreshDatabase, PostgresPeer, fill_example, server_of

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> DirectoryStore:
    return directory_store(tmp_path_factory.mktemp("shelf") / "nas")


@pytest.fixture(scope="module")
def saved(source_server: PostgresPeer, example: str, shelf: DirectoryStore) -> Manifest:
    """A backup of the example on PostgreSQL 15."""
    return capture(source_server, example, shelf).manifest


@pytest.fixture
def old(source_server: PostgresPeer) -> Iterator[FreshDatabase]:
    """A database that stands where a backup is to be restored."""
    database = source_server.create_database()
    with database.connect() as connection:
        connection.execute("CREATE TABLE old AS SELECT 42 AS answer")
    before = databases_of(source_server)
    yield database
    for name in (databases_of(source_server) - before) | {database.name}:
        source_server.drop_database(name)


def expect_untouched(old: FreshDatabase) -> None:
    assert count(old.server, old.name, "SELECT answer FROM old") == 42


@pytest.mark.parametrize("jobs", [1, 3])
def test_restore_into_a_new_database(
    source_server: PostgresPeer, shelf: DirectoryStore, saved: Manifest, new_name: str, jobs: int, tmp_path: Path
) -> None:
    result = restore(source_server, new_name, shelf, saved, jobs=jobs, folder=tmp_path)
    assert (result.database, result.differences, result.replaced) == (new_name, [], None)
    assert result.seconds > 0
    assert any(note.startswith("roles that were there already") and "example_login" in note for note in result.notes)
    assert count(source_server, new_name, "SELECT count(*) FROM app.person") == 60
    assert list(tmp_path.iterdir()) == []


def test_existing_database_is_not_touched_without_replace(
    source_server: PostgresPeer, shelf: DirectoryStore, saved: Manifest, old: FreshDatabase
) -> None:
    with databases_kept(source_server), pytest.raises(RestoreFailed, match="is there already") as caught:
        restore(source_server, old.name, shelf, saved)
    assert "--replace" in caught.value.next_step
    expect_untouched(old)


def test_existing_database_is_renamed_aside_though_it_is_in_use(
    source_server: PostgresPeer, shelf: DirectoryStore, saved: Manifest, old: FreshDatabase
) -> None:
    """An application holds sessions on it and comes back at once whenever they are ended."""
    stop, ended = threading.Event(), []

    def use() -> None:
        while not stop.is_set():
            with suppress(psycopg.OperationalError), old.connect() as connection:
                while not stop.is_set():
                    connection.execute("SELECT pg_sleep(0.01)")
            ended.append(1)

    users = [threading.Thread(target=use) for _ in range(3)]
    for user in users:
        user.start()
    try:
        result = restore(source_server, old.name, shelf, saved, replace=True)
    finally:
        stop.set()
        for user in users:
            user.join(20)
    assert ended
    assert result.differences == []
    assert result.replaced is not None
    assert result.replaced.startswith(f"{old.name}_before_20")
    assert count(source_server, old.name, "SELECT count(*) FROM app.person") == 60
    assert count(source_server, result.replaced, "SELECT answer FROM old") == 42


def test_failing_restore_with_replace_leaves_the_old_one(
    source_server: PostgresPeer, shelf: DirectoryStore, saved: Manifest, old: FreshDatabase
) -> None:
    """The server lacks the extension that the backup names: pg_restore fails in the middle."""
    with source_server.connect(saved.source.partition("/")[2]) as connection:
        available = {row[0] for row in connection.execute("SELECT extname FROM pg_extension")}
    assert "pg_trgm" in available
    poor = server_of(16)  # this wheel has none of contrib's extensions
    with poor.create_database(old.name).connect() as connection:
        connection.execute("CREATE TABLE old AS SELECT 42 AS answer")
    with databases_kept(poor), pytest.raises(RestoreFailed) as caught:
        restore(poor, old.name, shelf, saved, replace=True)
    assert 'extension "' in str(caught.value)
    assert "is not available" in str(caught.value)
    assert "an extension to install" in caught.value.next_step
    assert count(poor, old.name, "SELECT answer FROM old") == 42
    poor.drop_database(old.name)
    expect_untouched(old)


ROLES = """SELECT string_agg(format('%s %s %s', rolname, rolcanlogin, ARRAY(SELECT roleid::regrole::text
    FROM pg_auth_members WHERE member = pg_roles.oid ORDER BY 1)), ', ' ORDER BY rolname) FROM pg_roles"""


@pytest.fixture
def poor() -> Iterator[PostgresPeer]:
    """A server of its own that lacks the extensions of the example, and has one role of the same name."""
    with scratch_server(server_for(16)) as server:
        peer = PostgresPeer(server, "", host=str(server.socket_dir), user=server.user)
        with peer.connect() as connection:
            connection.execute("CREATE ROLE example_login NOLOGIN CONNECTION LIMIT 1")
        yield peer


def test_failing_restore_drops_the_roles_it_made_and_no_other(
    poor: PostgresPeer, shelf: DirectoryStore, saved: Manifest
) -> None:
    before = count(poor, "postgres", ROLES)
    assert "example_login" in before
    assert "example_owner" not in before
    with databases_kept(poor), pytest.raises(RestoreFailed, match="is not available") as caught:
        restore(poor, "anything", shelf, saved)
    assert "could not be dropped" not in caught.value.why
    assert count(poor, "postgres", ROLES) == before


def test_role_that_is_used_when_its_restore_fails_stays_and_is_named(
    poor: PostgresPeer, shelf: DirectoryStore, saved: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody makes a table that belongs to it, while the restore goes on."""
    before = count(poor, "postgres", ROLES)
    run = restore_module.run_pg_restore

    def use_role(*arguments: Any, **options: Any) -> None:
        with poor.connect() as connection:
            connection.execute("CREATE TABLE used (n integer)")
            connection.execute("ALTER TABLE used OWNER TO example_owner")
        run(*arguments, **options)

    monkeypatch.setattr(restore_module, "run_pg_restore", use_role)
    with databases_kept(poor), pytest.raises(RestoreFailed, match="is not available") as caught:
        restore(poor, "anything", shelf, saved)
    assert caught.value.why.endswith('roles that this restore made and that could not be dropped: "example_owner"')
    assert count(poor, "postgres", "SELECT tableowner FROM pg_tables WHERE tablename = 'used'") == "example_owner"
    with poor.connect() as connection:
        connection.execute("DROP TABLE used")
        connection.execute("DROP ROLE example_owner")
    assert count(poor, "postgres", ROLES) == before


def test_role_that_may_set_a_parameter_is_dropped_with_that_right(poor: PostgresPeer) -> None:
    before = count(poor, "postgres", ROLES)
    with pytest.raises(RestoreFailed) as caught, roles_dropped_on_failure(connection_to(poor)) as made:
        dumped = 'CREATE ROLE "the first";\nGRANT SET ON PARAMETER work_mem TO "the first";\n'
        made += restore_globals(connection_to(poor), dumped, scratch=False)[1]
        assert made == ["the first"]
        raise RestoreFailed("restoring", "something else failed")
    assert caught.value.why == "something else failed"
    assert count(poor, "postgres", ROLES) == before


def test_roles_are_made_all_or_none(poor: PostgresPeer) -> None:
    before = count(poor, "postgres", ROLES)
    with pytest.raises(BackupError, match="no_such_role"):
        restore_globals(connection_to(poor), "CREATE ROLE first;\nGRANT no_such_role TO first;\n", scratch=False)
    assert count(poor, "postgres", ROLES) == before


def test_copy_that_differs_does_not_replace_the_old_one(
    source_server: PostgresPeer, shelf: DirectoryStore, saved: Manifest, old: FreshDatabase
) -> None:
    """The evidence speaks of a row more than the dump holds."""
    tables = [
        table.model_copy(update={"rows": (table.rows or 0) + 1}) if table.name == "app.counter" else table
        for table in saved.evidence.tables
    ]
    manifest = saved.model_copy(update={"evidence": saved.evidence.model_copy(update={"tables": tables})})
    record = record_of(shelf, saved).model_copy(update={"manifest": manifest})
    with (
        databases_kept(source_server),
        pytest.raises(RestoreFailed, match=r"table app.counter: 6 rows in the source, 5"),
    ):
        restore_database(connection_to(source_server), old.name, shelf, record, [], RestoreOptions(replace=True))
    expect_untouched(old)


def test_existing_roles_are_left_as_they_are_and_missing_ones_are_made(shelf: DirectoryStore, saved: Manifest) -> None:
    with scratch_server(server_for(15)) as server:
        peer = PostgresPeer(server, "", host=str(server.socket_dir), user=server.user)
        with peer.connect() as connection:
            connection.execute("CREATE ROLE example_login NOLOGIN CONNECTION LIMIT 1")
        result = restore(peer, "brought_back", shelf, saved)
        assert result.differences == []
        assert any("example_login" in note and "left as they are" in note for note in result.notes)
        limit = "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'example_login'"
        assert count(peer, "postgres", limit) == 1
        granted = "SELECT pg_has_role('example_group', 'example_reader', 'MEMBER')"
        assert count(peer, "postgres", granted)
        owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'brought_back'"
        assert count(peer, "postgres", owner) == "example_owner"


def test_older_server_is_refused_before_anything_is_read(shelf: DirectoryStore) -> None:
    newest = server_of(18)
    database = newest.create_database()
    manifest = capture(newest, database.name, shelf).manifest
    newest.drop_database(database.name)
    older = server_of(15)
    with databases_kept(older), pytest.raises(RestoreFailed, match="this server is the older 15") as caught:
        restore(older, "anything", shelf, manifest)
    assert "restore into PostgreSQL 18 or newer" in caught.value.next_step


def test_newer_server_takes_an_older_backup_and_rows_are_compared(shelf: DirectoryStore, saved: Manifest) -> None:
    newest = server_of(18)
    name = "from_fifteen"
    try:
        result = restore(newest, name, shelf, saved)
        assert result.differences == []
        assert any(note.startswith("schema not compared") for note in result.notes)
        assert count(newest, name, "SELECT count(*) FROM app.person") == 60
        tables = [
            table.model_copy(update={"rows": 7}) if table.name == "app.counter" else table
            for table in saved.evidence.tables
        ]
        manifest = saved.model_copy(update={"evidence": saved.evidence.model_copy(update={"tables": tables})})
        differences, _ = compare_restored(connection_to(newest), name, manifest, RestoreOptions(), same_major=False)
        assert differences == ["table app.counter: 7 rows in the source, 5 restored"]
    finally:
        newest.drop_database(name)


def test_globals_backup_is_no_database(source_server: PostgresPeer, shelf: DirectoryStore) -> None:
    manifest = capture_globals(connection_to(source_server), [Target(shelf)], PLAIN).manifest
    with databases_kept(source_server), pytest.raises(RestoreFailed, match="it holds roles only"):
        restore(source_server, "anything", shelf, manifest)


def test_no_room_to_unpack_is_said_and_the_old_one_stays(
    source_server: PostgresPeer, shelf: DirectoryStore, saved: Manifest, old: FreshDatabase, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)), capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        missing(f"no file system can be mounted here (root is needed): {mounted.stderr.strip()}")
    try:
        with databases_kept(source_server), pytest.raises(StoreUnavailable) as caught:
            restore(source_server, old.name, shelf, saved, replace=True, folder=small)
        assert "are free" in str(caught.value)
        assert str(small) in str(caught.value)
        assert "--scratch" in caught.value.next_step
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(("umount", "--lazy", str(small)), check=False)
    expect_untouched(old)


def test_missing_scratch_folder_is_named(
    source_server: PostgresPeer, shelf: DirectoryStore, saved: Manifest, tmp_path: Path
) -> None:
    with databases_kept(source_server), pytest.raises(BackupError) as caught:
        restore(source_server, "anything", shelf, saved, folder=tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_account_that_may_not_create_databases_is_refused(
    source_server: PostgresPeer, shelf: DirectoryStore, saved: Manifest
) -> None:
    with source_server.connect() as connection:
        connection.execute("CREATE ROLE powerless LOGIN PASSWORD 'powerless'")
    try:
        account = connection_to(source_server, user="powerless", password="powerless")
        with databases_kept(source_server), pytest.raises(SourceRefused, match="permission denied to create database"):
            restore_database(account, "anything", shelf, record_of(shelf, saved), [], RestoreOptions())
    finally:
        with source_server.connect() as connection:
            connection.execute("DROP ROLE powerless")


@pytest.mark.parametrize(
    ("properties", "scratch", "expected"),
    [
        ({"collate": "xx_XX.UTF-8", "ctype": "xx_XX.UTF-8"}, False, RestoreFailed),
        ({"provider": "icu", "locale": "no such locale"}, False, RestoreFailed),
        ({"provider": "icu", "locale": "no such locale"}, True, VerificationImpossible),
    ],
)
def test_locale_that_the_server_lacks_is_said_so_and_not_taken_for_a_refusal(
    shelf: DirectoryStore,
    saved: Manifest,
    postgres_server: PostgresPeer,
    properties: dict[str, str],
    scratch: bool,
    expected: type[BackupError],
) -> None:
    evidence = saved.evidence
    assert evidence.database is not None
    lacking = saved.model_copy(
        update={"evidence": evidence.model_copy(update={"database": evidence.database.model_copy(update=properties)})}
    )
    record = record_of(shelf, saved).model_copy(update={"manifest": lacking})
    options = RestoreOptions(roles=False, scratch=scratch)
    with databases_kept(postgres_server), pytest.raises(expected) as caught:
        restore_database(connection_to(postgres_server), "anything", shelf, record, [], options)
    assert properties.get("locale", "xx_XX") in str(caught.value)
    assert "password" not in caught.value.next_step


def test_verification_leaves_nothing_behind(shelf: DirectoryStore, saved: Manifest, tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    record = record_of(shelf, saved)
    choice = ScratchChoice(method="local", parent=Path("/var/tmp"))
    seen: list[str] = []
    (proof,) = verify_backup({"nas": (shelf, record)}, [], choice, progress=lambda step, *_: seen.append(step))
    assert proof.result == "equal"
    assert proof.scratch is not None
    assert proof.scratch.startswith("local PostgreSQL 15")
    assert {"restoring", "comparing"} <= set(seen)


@pytest.fixture
def shared() -> Iterator[PostgresPeer]:
    """A server that others use, which a scratch database may be made on; it has none of the source's roles."""
    with scratch_server(server_for(15)) as server:
        peer = PostgresPeer(server, "", host=str(server.socket_dir), user=server.user)
        before = count(peer, "postgres", "SELECT count(*) FROM pg_roles")
        with databases_kept(peer):
            yield peer
        assert count(peer, "postgres", "SELECT count(*) FROM pg_roles") == before


def test_verification_on_a_shared_server_leaves_neither_database_nor_role(
    source_server: PostgresPeer, shelf: DirectoryStore, tiny: str, shared: PostgresPeer
) -> None:
    manifest = capture(source_server, tiny, shelf).manifest
    choice = ScratchChoice(method="server", server=connection_to(shared))
    (proof,) = verify_backup({"nas": (shelf, record_of(shelf, manifest))}, [], choice)
    assert (proof.result, proof.differences) == ("equal", [])
    assert any("owners and privileges not compared" in note for note in proof.notes)


def test_verification_on_a_shared_server_drops_what_a_killed_one_left(
    source_server: PostgresPeer, shelf: DirectoryStore, tiny: str, shared: PostgresPeer
) -> None:
    manifest = capture(source_server, tiny, shelf).manifest
    choice = ScratchChoice(method="server", server=connection_to(shared))
    shared.create_database("homelab_verify_4f6a2c")
    shared.create_database("homelab_verify_mine")  # not a name of ours
    (proof,) = verify_backup({"nas": (shelf, record_of(shelf, manifest))}, [], choice)
    assert proof.result == "equal"
    assert count(shared, "postgres", "SELECT count(*) FROM pg_database WHERE datname = 'homelab_verify_4f6a2c'") == 0
    assert count(shared, "postgres", "SELECT count(*) FROM pg_database WHERE datname = 'homelab_verify_mine'") == 1
    shared.drop_database("homelab_verify_mine")


def test_roles_that_a_shared_server_lacks_are_no_fault_of_the_backup(
    shelf: DirectoryStore, saved: Manifest, shared: PostgresPeer
) -> None:
    choice = ScratchChoice(method="server", server=connection_to(shared))
    proofs = len(record_of(shelf, saved).proofs)
    with pytest.raises(VerificationImpossible, match=r'role "example_\w+" does not exist') as caught:
        verify_backup({"nas": (shelf, record_of(shelf, saved))}, [], choice)
    assert "verify.image" in caught.value.next_step
    assert "mapped" not in str(caught.value)  # the password of the user mapping whose making failed
    assert len(record_of(shelf, saved).proofs) == proofs


@pytest.mark.parametrize("jobs", [1, 2])
def test_only_newer_client_programs_restore_into_an_older_server(
    source_server: PostgresPeer,
    shelf: DirectoryStore,
    example: str,
    new_name: str,
    jobs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine with nothing but PostgreSQL 18's programs; what they set, servers before 17 do not know."""
    poor = server_of(16)
    newest = [each for each in programs.installations() if each.major == 18]
    monkeypatch.setattr(programs, "installations", lambda: newest)
    manifest = capture(source_server, example, shelf).manifest
    assert manifest.programs["pg_dump"].startswith("18.")
    result = restore(source_server, new_name, shelf, manifest, jobs=jobs)
    assert result.differences == []
    # What else fails is still a failure.
    with databases_kept(poor), pytest.raises(RestoreFailed, match="is not available"):
        restore(poor, new_name, shelf, manifest, jobs=jobs)


def test_no_way_to_verify_names_every_way_and_records_nothing(shelf: DirectoryStore, saved: Manifest) -> None:
    proofs = len(record_of(shelf, saved).proofs)
    unknown = saved.evidence.model_copy(update={"extensions": {**saved.evidence.extensions, "no_such_thing": "1"}})
    record = record_of(shelf, saved).model_copy(update={"manifest": saved.model_copy(update={"evidence": unknown})})
    with pytest.raises(VerificationImpossible) as caught:
        verify_backup({"nas": (shelf, record)}, [], ScratchChoice())
    for words in ("no_such_thing", "container: no image is known", "server: none is named"):
        assert words in str(caught.value)
    assert len(record_of(shelf, saved).proofs) == proofs


def test_full_example_survives_a_second_generation(
    source_server: PostgresPeer, shelf: DirectoryStore, new_name: str
) -> None:
    """A backup of a restored copy has the evidence of the first: nothing is worn away by restoring."""
    database = source_server.create_database()
    fill_example(database.dsn)
    first = capture(source_server, database.name, shelf).manifest
    source_server.drop_database(database.name)
    restore(source_server, new_name, shelf, first)
    second = capture(source_server, new_name, shelf).manifest
    assert second.evidence.objects == first.evidence.objects
    assert second.evidence.database == first.evidence.database
    assert [(t.name, t.rows, t.content_hash) for t in second.evidence.tables] == [
        (t.name, t.rows, t.content_hash) for t in first.evidence.tables
    ]
