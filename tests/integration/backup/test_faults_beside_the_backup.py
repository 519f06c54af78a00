"""What goes wrong beside a backup says nothing of it: the verifying machine, an interrupt, a clock, slow evidence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import FrameType

import psutil
import pytest

from homelab_pipelines.backup import evidence
from homelab_pipelines.backup import verify as verify_module
from homelab_pipelines.backup.errors import CaptureFailed, SourceRefused, StoreUnavailable, VerificationImpossible
from homelab_pipelines.backup.local_server import SCRATCH_SUPERUSER, persistent_server, scratch_server
from homelab_pipelines.backup.programs import available_extensions, server_for
from homelab_pipelines.backup.scratch_folder import scratch_folder
from homelab_pipelines.backup.session import Session
from homelab_pipelines.backup.stores.base import Writer
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.backup.unpack import NOWHERE, unpack
from homelab_pipelines.backup.verify import ScratchChoice, verify_backup
from tests.integration.backup.conftest import Key, capture, path_of, record_of, verify
from tests.peers import missing
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.postgres
PASSWORD = "of-a-server-of-its-own"


def kill_first(wanted: Callable[[psutil.Process], bool]) -> threading.Thread:
    """Look for a process in the background, and kill it with SIGKILL as a machine out of memory does."""

    def look() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for process in psutil.process_iter():
                try:
                    if wanted(process):
                        process.kill()
                        return
                except psutil.Error:
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    return thread


def is_our_pg_restore(process: psutil.Process) -> bool:
    return process.name() == "pg_restore" and process.ppid() == os.getpid()


def is_a_loading_backend(process: psutil.Process) -> bool:
    title = " ".join(process.cmdline()).strip()  # padded where the arguments were
    return SCRATCH_SUPERUSER in title and title.endswith("COPY")


@pytest.fixture
def large(source_server: PostgresPeer) -> str:
    """A database whose restore takes a second or so."""
    database = source_server.create_database()
    with database.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT n, md5(n::text) AS word FROM generate_series(1, 400000) AS n")
    return database.name


@pytest.mark.parametrize("victim", [is_our_pg_restore, is_a_loading_backend], ids=["pg_restore", "backend"])
def test_verification_whose_programs_are_killed_says_nothing_of_the_backup(
    source_server: PostgresPeer, large: str, nas: DirectoryStore, victim: Callable[[psutil.Process], bool]
) -> None:
    manifest = capture(source_server, large, nas).manifest
    killer = kill_first(victim)
    with pytest.raises(VerificationImpossible, match="it says nothing of the backup"):
        verify(manifest, nas)
    killer.join()
    assert record_of(nas, manifest).status == "unverified"
    (proof,) = verify(manifest, nas)
    assert proof.result == "equal"


def test_verification_on_a_full_disk_says_nothing_of_the_backup(
    source_server: PostgresPeer, large: str, nas: DirectoryStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    small = Path("/dev/shm") / f"small-{os.getpid()}"
    small.mkdir(mode=0o711)
    mount = ("mount", "-t", "tmpfs", "-o", "size=112m,mode=0711", "tmpfs", str(small))
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        small.rmdir()
        missing("a small file system cannot be mounted here")
    try:
        manifest = capture(source_server, large, nas).manifest
        copies = {"nas": (nas, record_of(nas, manifest))}
        with pytest.raises(VerificationImpossible, match="No space left on device"):
            verify_backup(copies, [], ScratchChoice(method="local", parent=small))
        assert record_of(nas, manifest).status == "unverified"
    finally:
        subprocess.run(("umount", "--lazy", str(small)), check=False)
        small.rmdir()


@pytest.mark.parametrize("preloaded", [False, True], ids=["bare server", "server with pg_cron"])
def test_extension_that_ties_itself_to_one_database_says_nothing_of_the_backup(
    nas: DirectoryStore, preloaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = server_for(15)
    if "pg_cron" not in available_extensions(installation):
        missing("pg_cron is not installed (apt install postgresql-15-cron)")
    loaded = {"shared_preload_libraries": "pg_cron", "cron.database_name": "app"}
    with scratch_folder() as folder:
        folder.chmod(0o711)
        with persistent_server(installation, folder, password=PASSWORD, settings=loaded) as server:
            peer = PostgresPeer(server, PASSWORD)
            with peer.create_database("app").connect() as connection:
                connection.execute("CREATE EXTENSION pg_cron")
            manifest = capture(peer, "app", nas).manifest
    if preloaded:
        monkeypatch.setattr(verify_module, "scratch_server", partial(scratch_server, settings=loaded))
    with pytest.raises(VerificationImpossible, match="it says nothing of the backup") as caught:
        verify(manifest, nas)
    assert "move it to another database" in caught.value.next_step
    assert record_of(nas, manifest).status == "unverified"


def test_damage_is_seen_also_after_a_proof_of_the_future(
    source_server: PostgresPeer, tiny: str, nas: DirectoryStore
) -> None:
    manifest = capture(source_server, tiny, nas).manifest
    copies = {"nas": (nas, record_of(nas, manifest))}
    verify_backup(copies, [], ScratchChoice(), now=datetime.now(UTC) + timedelta(days=365))
    assert record_of(nas, manifest).status == "verified"
    path = path_of(nas, manifest, "dump.pgc.zst")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    (proof,) = verify(manifest, nas)
    assert proof.result == "damaged"
    assert record_of(nas, manifest).status == "failed"


INTERRUPTED = 143


def test_interrupt_while_unpacking_is_no_damage(
    source_server: PostgresPeer, large: str, nas: DirectoryStore, key: Key
) -> None:
    manifest = capture(source_server, large, nas, options=key.options).manifest
    stored = manifest.object("dump")
    assert stored is not None

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(INTERRUPTED)

    former = signal.signal(signal.SIGALRM, leave)
    interrupted = 0
    try:
        for moment in range(1, 41):
            signal.setitimer(signal.ITIMER_REAL, moment * 0.002)
            try:
                unpack(nas, manifest, stored, key.identities, NOWHERE)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except (SystemExit, KeyboardInterrupt):  # any other exception fails the test
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert interrupted


class Dead(DirectoryStore):
    """A target that refuses every object."""

    def writer(self, key: str, expected_bytes: int = 0) -> Writer:
        raise StoreUnavailable(f"writing {key}", "dead", "")


def slow_evidence(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    real = evidence.tables

    def slow(session: Session, *arguments: object) -> object:
        session.rows(f"SELECT 1 AS one FROM (SELECT pg_sleep({seconds})) AS slow")
        return real(session, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(evidence, "tables", slow)


def test_capture_that_failed_does_not_wait_for_its_evidence(
    source_server: PostgresPeer, tiny: str, nas: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_evidence(monkeypatch, 60)
    started = time.monotonic()
    with pytest.raises(CaptureFailed, match="no target"):
        capture(source_server, tiny, Dead(nas.root, "dead"))
    assert time.monotonic() - started < 30, "the query of a minute was waited for"
    with source_server.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()"
        left = connection.execute(f"{query} AND state = 'active'".encode()).fetchone()
    assert left == (0,)


def test_evidence_that_failed_ends_the_dump_at_once(
    source_server: PostgresPeer, large: str, nas: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> object:
        raise SourceRefused("recording t", "permission denied for table t", "")

    monkeypatch.setattr(evidence, "tables", refused)
    with pytest.raises(SourceRefused, match="permission denied for table t"):
        capture(source_server, large, nas)
    assert list(nas.scan()) == []
