"""What happens to the source while it is backed up: changes, locks, refusals, and servers that go away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from homelab_pipelines.backup.capture import CaptureOptions, capture_database, capture_globals
from homelab_pipelines.backup.connection import Direct
from homelab_pipelines.backup.errors import SourceRefused, SourceUnavailable
from homelab_pipelines.backup.fan_out import Target
from homelab_pipelines.backup.local_server import free_port
from homelab_pipelines.backup.manifest import Manifest
from homelab_pipelines.backup.records import Listing, list_store
from homelab_pipelines.backup.session import connect
from homelab_pipelines.backup.stores.directory import DirectoryStore
from tests.integration.backup.conftest import PLAIN, capture, connection_to, count, listed, verify
from tests.peers.postgres import FreshDatabase, PostgresPeer, every_major, start_server

pytestmark = pytest.mark.postgres

INCOMPRESSIBLE = """CREATE TABLE bulk AS SELECT n, (SELECT string_agg(md5(n::text || m), '')
    FROM generate_series(1, 32) AS m) AS noise FROM generate_series(1, 6000) AS n"""


@pytest.fixture
def busy(source_server: PostgresPeer) -> Iterator[FreshDatabase]:
    """A database of 6 MB that zstd makes no smaller than 3 MB: more than the pipe from pg_dump holds."""
    database = source_server.create_database()
    with database.connect() as connection:
        connection.execute(INCOMPRESSIBLE)
        connection.execute("CREATE TABLE ledger (id bigserial PRIMARY KEY, n integer)")
        connection.execute("INSERT INTO ledger (n) SELECT n FROM generate_series(1, 500) AS n")
    yield database
    source_server.drop_database(database.name)


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `work` in a thread until the block ends; what it raises is raised at the end."""
    done, failures = threading.Event(), []

    def run() -> None:
        try:
            work(done)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(30)
    assert failures == []


class Gate:
    """A capture's progress that stops it in the middle of the dump, where pg_dump waits to be read, until `open`."""

    def __init__(self) -> None:
        self._reached, self._opened = threading.Event(), threading.Event()

    def __call__(self, step: str, done: int, expected: int) -> None:
        if step.startswith("dumping") and not self._reached.is_set():
            self._reached.set()
            assert self._opened.wait(60)

    def wait(self) -> None:
        """Until the dump is in its middle."""
        assert self._reached.wait(60), "the dump never came to its middle"

    def open(self) -> None:
        """Let the dump go on."""
        self._opened.set()


def gated_capture(peer: PostgresPeer, database: str, store: DirectoryStore, gate: Gate) -> Manifest:
    return capture_database(connection_to(peer), database, [Target(store)], PLAIN, gate).manifest


def test_table_that_changes_during_the_dump_is_restored_as_the_snapshot_was(
    source_server: PostgresPeer, busy: FreshDatabase, nas: DirectoryStore
) -> None:
    gate = Gate()

    def write(done: threading.Event) -> None:
        rounds = 0
        with busy.connect() as connection:
            while not done.is_set():
                rounds += 1
                if rounds == 10:
                    gate.wait()
                if rounds == 20:
                    gate.open()
                connection.execute("INSERT INTO ledger (n) SELECT n FROM generate_series(1, 50) AS n")
                connection.execute("UPDATE ledger SET n = n + 1 WHERE id % 7 = 0")
                connection.execute("DELETE FROM ledger WHERE id % 5 = 0 AND n > 0")
                connection.execute("UPDATE bulk SET noise = reverse(noise) WHERE n % 100 = 0")

    with meanwhile(write):
        manifest = gated_capture(source_server, busy.name, nas, gate)
    (ledger,) = [table for table in manifest.evidence.tables if table.name == "public.ledger"]
    assert ledger.rows != count(source_server, busy.name, "SELECT count(*) FROM ledger")
    (sequence,) = manifest.evidence.sequences
    assert sequence.before < sequence.after
    (proof,) = verify(manifest, nas)
    assert (proof.result, proof.differences) == ("equal", [])


def test_alter_table_waits_for_the_dump_and_goes_through(
    source_server: PostgresPeer, busy: FreshDatabase, nas: DirectoryStore
) -> None:
    gate, altered = Gate(), threading.Event()

    def alter(_: threading.Event) -> None:
        gate.wait()
        with busy.connect() as connection:
            connection.execute("ALTER TABLE ledger ADD COLUMN late text DEFAULT 'x'")
            altered.set()
            connection.execute("DROP TABLE bulk")

    def open_when_it_waits(_: threading.Event) -> None:
        gate.wait()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'ALTER TABLE%'"
        while not count(source_server, "postgres", waiting):
            time.sleep(0.02)
        assert not altered.is_set()
        gate.open()

    with meanwhile(alter), meanwhile(open_when_it_waits):
        manifest = gated_capture(source_server, busy.name, nas, gate)
    assert altered.is_set(), "the ALTER TABLE did not go through"
    assert count(source_server, busy.name, "SELECT to_regclass('bulk') IS NULL")
    assert "column public.ledger.late" not in manifest.evidence.objects
    assert "table public.bulk" in manifest.evidence.objects
    (proof,) = verify(manifest, nas)
    assert (proof.result, proof.differences) == ("equal", [])


def test_lock_held_longer_than_allowed_is_a_clear_error_that_may_be_tried_again(
    source_server: PostgresPeer, busy: FreshDatabase, nas: DirectoryStore, impatient: CaptureOptions
) -> None:
    with psycopg.connect(busy.dsn) as holder:
        holder.execute("LOCK TABLE ledger IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SourceUnavailable) as caught:
            capture(source_server, busy.name, nas, options=impatient)
    assert caught.value.retryable
    assert "lock timeout" in str(caught.value)
    assert busy.name in str(caught.value)
    assert "pg_stat_activity" in caught.value.next_step
    assert listed(nas) == []
    assert capture(source_server, busy.name, nas, options=impatient).missed == {}


def test_table_dropped_before_it_is_locked_may_be_tried_again(
    source_server: PostgresPeer, busy: FreshDatabase, nas: DirectoryStore
) -> None:
    """The drop is uncommitted when the tables are listed, and committed while the backup waits for its lock."""

    def drop(_: threading.Event) -> None:
        with psycopg.connect(busy.dsn) as connection:
            connection.execute("DROP TABLE ledger")
            locked.set()
            time.sleep(1)

    locked = threading.Event()
    with meanwhile(drop), pytest.raises(SourceUnavailable) as caught:
        locked.wait(10)
        capture(source_server, busy.name, nas)
    assert "ledger" in str(caught.value)
    assert caught.value.retryable
    assert listed(nas) == []


def test_database_dropped_in_the_middle_leaves_no_backup(
    source_server: PostgresPeer, busy: FreshDatabase, nas: DirectoryStore
) -> None:
    gate = Gate()

    def drop(_: threading.Event) -> None:
        gate.wait()
        source_server.drop_database(busy.name)
        gate.open()

    with meanwhile(drop), pytest.raises(SourceUnavailable) as caught:
        gated_capture(source_server, busy.name, nas, gate)
    assert "terminating connection" in str(caught.value) or "server closed the connection" in str(caught.value)
    assert list_store(nas) == Listing()


def test_server_stopped_in_the_middle_leaves_no_backup(nas: DirectoryStore) -> None:
    with ExitStack() as stack:
        server = start_server(18, stack)
        database = server.create_database("busy")
        with database.connect() as connection:
            connection.execute(INCOMPRESSIBLE)

        gate = Gate()

        def stop(_: threading.Event) -> None:
            gate.wait()
            stack.close()
            gate.open()

        with meanwhile(stop), pytest.raises(SourceUnavailable) as caught:
            gated_capture(server, "busy", nas, gate)
        assert caught.value.retryable
        assert list_store(nas) == Listing()
        with pytest.raises(SourceUnavailable) as caught:
            capture(server, "busy", nas)
        assert "onnection refused" in str(caught.value)


def test_server_that_is_not_there_is_named(source_server: PostgresPeer, nas: DirectoryStore) -> None:
    port = free_port()
    with pytest.raises(SourceUnavailable, match=f"main \\(127.0.0.1:{port}\\)") as caught:
        capture(source_server, "any", nas, place=Direct("127.0.0.1", port))
    assert caught.value.retryable
    with pytest.raises(SourceUnavailable, match=r"no-such-host\.invalid"):
        capture(source_server, "any", nas, place=Direct("no-such-host.invalid"))


def test_wrong_password_is_refused_and_not_shown(source_server: PostgresPeer, tiny: str, nas: DirectoryStore) -> None:
    with pytest.raises(SourceRefused, match="password authentication failed") as caught:
        capture(source_server, tiny, nas, password="not-the-secret")
    assert not caught.value.retryable
    assert "not-the-secret" not in repr(caught.value)
    with pytest.raises(SourceRefused, match="password"):
        capture(source_server, tiny, nas, password=None)


def test_unknown_database_is_refused(source_server: PostgresPeer, nas: DirectoryStore) -> None:
    with pytest.raises(SourceRefused, match='database "no such database" does not exist'):
        capture(source_server, "no such database", nas)


@every_major
def test_timeouts_set_for_applications_do_not_end_a_backup(postgres_server: PostgresPeer, nas: DirectoryStore) -> None:
    """The dump is held for longer than each of them, while the session that exported its snapshot has nothing to do."""
    database = postgres_server.create_database()
    timeouts = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"]
    timeouts += ["transaction_timeout"] if postgres_server.major >= 17 else []
    try:
        with database.connect() as connection:
            connection.execute(INCOMPRESSIBLE)
            for timeout in timeouts:
                connection.execute(f"ALTER DATABASE {database.name} SET {timeout} = '400ms'".encode())
        gate = Gate()

        def hold(_: threading.Event) -> None:
            gate.wait()
            time.sleep(1.2)
            gate.open()

        with meanwhile(hold):
            manifest = gated_capture(postgres_server, database.name, nas, gate)
        (proof,) = verify(manifest, nas)
        assert (proof.result, proof.differences) == ("equal", [])
    finally:
        postgres_server.drop_database(database.name)


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("SET transaction_timeout = '100ms'", "terminating connection due to transaction timeout"),
        ("SET statement_timeout = '100ms'", "canceling statement due to statement timeout"),
        ("", "terminating connection due to administrator command"),
    ],
)
def test_session_that_was_ended_is_not_taken_for_a_refusal(postgres_server: PostgresPeer, end: str, why: str) -> None:
    def terminate(_: threading.Event) -> None:
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(20)'"
        while not end and not count(postgres_server, "postgres", query):
            time.sleep(0.02)

    with meanwhile(terminate), connect(connection_to(postgres_server)) as session:
        session.execute(end)
        with pytest.raises(SourceUnavailable, match=why) as caught:
            session.rows("SELECT pg_sleep(20)")
    assert "password" not in caught.value.next_step
    assert "log" in caught.value.next_step


def test_second_backup_of_a_database_waits_for_another_run(
    source_server: PostgresPeer, busy: FreshDatabase, nas: DirectoryStore, usb: DirectoryStore
) -> None:
    gate = Gate()
    first: list[str] = []

    def back_up(_: threading.Event) -> None:
        first.append(gated_capture(source_server, busy.name, nas, gate).id)

    with meanwhile(back_up):
        gate.wait()
        with pytest.raises(SourceUnavailable, match="another backup of it is running"):
            capture(source_server, busy.name, usb)
        gate.open()
    assert listed(nas) == first
    assert listed(usb) == []


@pytest.fixture
def account(source_server: PostgresPeer) -> Iterator[str]:
    """An account that may log in and nothing else; its password is its name."""
    name = f"account_{time.monotonic_ns()}"
    with source_server.connect() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), name))
    yield name
    with source_server.connect() as connection:
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_account_that_may_read_all_data_carries_everything_but_foreign_rows(
    source_server: PostgresPeer, busy: FreshDatabase, nas: DirectoryStore, account: str
) -> None:
    with source_server.connect() as connection:
        connection.execute(f"GRANT pg_read_all_data TO {account}".encode())
    with busy.connect() as connection:
        connection.execute("CREATE FOREIGN DATA WRAPPER w")
        connection.execute("CREATE SERVER s FOREIGN DATA WRAPPER w")
        connection.execute("CREATE FOREIGN TABLE elsewhere (id integer) SERVER s")
    manifest = capture(source_server, busy.name, nas, user=account, password=account).manifest
    assert [each.what for each in manifest.not_carried] == ["rows of public.elsewhere"]
    assert "another server" in manifest.not_carried[0].why
    assert manifest.evidence.role_passwords  # pg_read_all_data reads pg_authid, too
    (proof,) = verify(manifest, nas)
    assert (proof.result, proof.differences) == ("equal", [])


def test_account_that_may_not_read_passwords_leaves_them_out_and_says_so(
    source_server: PostgresPeer, busy: FreshDatabase, nas: DirectoryStore, account: str
) -> None:
    with busy.connect() as connection:
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {account}".encode())
        connection.execute(f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {account}".encode())
    as_account = connection_to(source_server, user=account, password=account)
    manifest = capture_database(as_account, busy.name, [Target(nas)], PLAIN).manifest
    (left_out,) = manifest.not_carried
    assert left_out.what == "passwords of roles"
    assert account in left_out.why
    assert "superuser" in left_out.why
    assert not manifest.evidence.role_passwords
    (proof,) = verify(manifest, nas)
    assert (proof.result, proof.differences) == ("equal", [])
    everyone = capture_globals(as_account, [Target(nas)], PLAIN).manifest
    assert [each.what for each in everyone.not_carried] == ["passwords of roles"]
    assert [proof.result for proof in verify(everyone, nas)] == ["equal"]
    with busy.connect() as connection:
        connection.execute(f"DROP OWNED BY {account}".encode())


def test_account_without_privileges_is_refused_with_the_table_named(
    source_server: PostgresPeer, busy: FreshDatabase, nas: DirectoryStore, account: str
) -> None:
    with pytest.raises(SourceRefused, match=r"permission denied for table (bulk|ledger)") as caught:
        capture(source_server, busy.name, nas, user=account, password=account)
    assert "privileges" in caught.value.next_step
    assert listed(nas) == []


def test_row_security_that_hides_rows_is_refused_not_dumped_in_part(
    source_server: PostgresPeer, busy: FreshDatabase, nas: DirectoryStore, account: str
) -> None:
    with source_server.connect() as connection:
        connection.execute(f"GRANT pg_read_all_data TO {account}".encode())
    with busy.connect() as connection:
        connection.execute("ALTER TABLE ledger ENABLE ROW LEVEL SECURITY")
    with pytest.raises(SourceRefused, match='row-level security policy for table "ledger"'):
        capture(source_server, busy.name, nas, user=account, password=account)
    assert listed(nas) == []


def test_role_made_during_the_dump_is_in_evidence_and_globals_alike(
    source_server: PostgresPeer, busy: FreshDatabase, nas: DirectoryStore
) -> None:
    """Roles stand outside the snapshot: the evidence must be of the time at which they were dumped."""

    gate = Gate()

    def create(_: threading.Event) -> None:
        gate.wait()
        with source_server.connect() as connection:
            connection.execute("CREATE ROLE made_during_the_dump")
        gate.open()

    try:
        with meanwhile(create):
            manifest = gated_capture(source_server, busy.name, nas, gate)
        assert "made_during_the_dump" in manifest.evidence.roles
        (proof,) = verify(manifest, nas)
        assert (proof.result, proof.differences) == ("equal", [])
    finally:
        with source_server.connect() as connection:
            connection.execute("DROP ROLE IF EXISTS made_during_the_dump")


def test_invalid_index_is_listed_as_not_carried(
    source_server: PostgresPeer, busy: FreshDatabase, nas: DirectoryStore, tmp_path: Path
) -> None:
    with busy.connect() as connection:
        connection.execute("INSERT INTO ledger (n) VALUES (1)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON ledger (n)")
    manifest = capture(source_server, busy.name, nas, options=replace(PLAIN, hash_limit=0)).manifest
    assert [each.what for each in manifest.not_carried] == ["index public.broken"]
    assert {table.content_hash for table in manifest.evidence.tables} == {None}
    (proof,) = verify(manifest, nas)
    assert (proof.result, proof.differences) == ("equal", [])
    assert any(note.startswith("counted, not hashed") for note in proof.notes)
