"""Several targets, some of them dying: the backup succeeds on the others, says why, and is filled in afterwards."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from homelab_pipelines.backup import fan_out
from homelab_pipelines.backup.capture import CaptureResult, capture_database
from homelab_pipelines.backup.errors import CaptureFailed, StoreUnavailable
from homelab_pipelines.backup.fan_out import Target
from homelab_pipelines.backup.layout import backup_folder
from homelab_pipelines.backup.records import Listing, list_store
from homelab_pipelines.backup.stores.base import BackupStore, get
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.backup.stores.throttle import Throttle, ThrottledStore
from homelab_pipelines.backup.verify import ScratchChoice, verify_backup
from tests.integration.backup.conftest import (
    PLAIN,
    Key,
    capture,
    connection_to,
    directory_store,
    listed,
    record_of,
    s3_store,
    verify,
)
from tests.peers import missing
from tests.peers.faulty_proxy import FaultyProxy
from tests.peers.faulty_store import Fault, FaultyStore
from tests.peers.postgres import PostgresPeer
from tests.peers.s3 import S3Server

pytestmark = pytest.mark.postgres

MIB = 1 << 20


@pytest.fixture(scope="module")
def noisy(source_server: PostgresPeer) -> Iterator[str]:
    """The name of a database whose dump stays about 20 MB when it is compressed: more than the targets' queues hold."""
    database = source_server.create_database()
    with database.connect() as connection:
        connection.execute(
            "CREATE TABLE noise AS SELECT n, (SELECT string_agg(md5(n::text || m), '') FROM generate_series(1, 32) m)"
            " FROM generate_series(1, 38000) AS n"
        )
    yield database.name
    source_server.drop_database(database.name)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)), capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        missing(f"no file system can be mounted here (root is needed): {mounted.stderr.strip()}")
    yield folder
    subprocess.run(("umount", "--lazy", str(folder)), check=False)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server.port) as started:
        yield started


def behind(proxy: FaultyProxy, server: S3Server, bucket: str, **options: Any) -> BackupStore:
    return s3_store(server, bucket, endpoint=proxy.endpoint, **options)


def expect_only(result: CaptureResult, good: BackupStore, missed: str, *words: str) -> None:
    """The backup is whole on `good`; why it is not on `missed` was said with these words."""
    assert list(result.written) == [good.name]
    assert list(result.missed) == [missed]
    for word in words:
        assert word in result.missed[missed], result.missed[missed]
    assert listed(good) == [result.manifest.id]
    assert [proof.result for proof in verify(result.manifest, good)] == ["equal"]


def expect_same(manifest_folder: str, *stores: BackupStore) -> None:
    """All stores hold the same bytes under the same names."""
    contents = []
    for store in stores:
        names = sorted(listed.key for listed in store.scan(f"{manifest_folder}/") if "/proof-" not in listed.key)
        contents.append({name: get(store, name) for name in names})
    assert all(content == contents[0] for content in contents)
    assert len(contents[0]) == 3


def test_full_disk_fails_alone(source_server: PostgresPeer, noisy: str, nas: DirectoryStore, small_disk: Path) -> None:
    full = DirectoryStore(small_disk, "full")
    result = capture(source_server, noisy, full, nas)
    expect_only(result, nas, "full", "no space is left", "filling it afterwards failed")
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []


def test_unmounted_disk_fails_alone(
    source_server: PostgresPeer, tiny: str, nas: DirectoryStore, tmp_path: Path
) -> None:
    (tmp_path / "mnt").mkdir()
    result = capture(source_server, tiny, DirectoryStore(tmp_path / "mnt", "usb", require_mount=True), nas)
    expect_only(result, nas, "usb", "not mounted")
    assert list((tmp_path / "mnt").iterdir()) == []


def test_read_only_disk_fails_alone(
    source_server: PostgresPeer, tiny: str, nas: DirectoryStore, small_disk: Path
) -> None:
    remounted = subprocess.run(("mount", "-o", "remount,ro", str(small_disk)), check=False)
    assert remounted.returncode == 0
    result = capture(source_server, tiny, DirectoryStore(small_disk, "stick"), nas)
    expect_only(result, nas, "stick", "read-only")


@pytest.mark.s3
@pytest.mark.parametrize(
    ("mode", "limit", "words"), [("refuse", 0, "cannot be reached"), ("503", 0, "503"), ("reset", 6 * MIB, "127.0.0.1")]
)
def test_bucket_behind_a_bad_network_fails_alone(
    source_server: PostgresPeer,
    noisy: str,
    nas: DirectoryStore,
    s3_server: S3Server,
    s3_bucket: str,
    proxy: FaultyProxy,
    mode: str,
    limit: int,
    words: str,
) -> None:
    proxy.set(mode, limit)  # type: ignore[arg-type]
    result = capture(source_server, noisy, behind(proxy, s3_server, s3_bucket), nas)
    expect_only(result, nas, "bucket", words, "filling it afterwards failed", f"s3://{s3_bucket}/house/backups/main/")
    assert list_store(s3_store(s3_server, s3_bucket)) == Listing()


@pytest.mark.s3
def test_bucket_that_comes_back_is_filled_from_the_good_copy(
    source_server: PostgresPeer,
    noisy: str,
    nas: DirectoryStore,
    s3_server: S3Server,
    s3_bucket: str,
    proxy: FaultyProxy,
    key: Key,
) -> None:
    proxy.set("reset", 6 * MIB)
    steps: list[str] = []

    def come_back(step: str, done: int, expected: int) -> None:
        if step.startswith("filling") and step not in steps:
            proxy.set("pass")
        steps.append(step)

    bucket = behind(proxy, s3_server, s3_bucket)
    result = capture_database(
        connection_to(source_server), noisy, [Target(bucket), Target(nas)], key.options, come_back
    )
    assert result.filled == ["bucket"]
    assert result.missed == {}
    assert set(result.written) == {"bucket", "nas"}
    expect_same(backup_folder(result.manifest.source, result.manifest.id), bucket, nas)
    # What the broken connection left could not be aborted through it; the sweep finds it.
    bucket.sweep(timedelta(0), datetime.now(UTC) + timedelta(minutes=1))
    assert s3_server.unfinished_uploads(s3_bucket) == []
    proofs = verify(result.manifest, bucket, nas, identities=key.identities)
    assert [proof.result for proof in proofs] == ["equal", "equal"]


@pytest.mark.s3
def test_killed_s3_server_fails_alone(
    source_server: PostgresPeer, noisy: str, nas: DirectoryStore, s3_server: S3Server, s3_bucket: str
) -> None:
    def kill_in_the_middle(step: str, done: int, expected: int) -> None:
        if step.startswith("dumping") and done > 8 * MIB:
            s3_server.kill()

    try:
        bucket = s3_store(s3_server, s3_bucket)
        result = capture_database(
            connection_to(source_server), noisy, [Target(bucket), Target(nas)], PLAIN, kill_in_the_middle
        )
    finally:
        s3_server.restart()
    expect_only(result, nas, "bucket", "cannot be reached")
    assert list_store(bucket).backups == []


@pytest.mark.parametrize("where", ["*/dump.pgc.zst", "*/globals.sql.zst", "*/manifest.json"])
@pytest.mark.parametrize("at", ["write", "commit"])
def test_target_that_fails_once_is_filled_and_has_the_same_bytes(
    source_server: PostgresPeer, tiny: str, nas: DirectoryStore, usb: DirectoryStore, where: str, at: str
) -> None:
    faulty = FaultyStore(usb, Fault("error", on=at, keys=where))  # type: ignore[arg-type]
    result = capture(source_server, tiny, faulty, nas)
    assert (result.filled, result.missed, set(result.written)) == (["usb"], {}, {"usb", "nas"})
    expect_same(backup_folder(result.manifest.source, result.manifest.id), usb, nas)


def test_copy_that_is_bent_while_filling_is_not_committed(
    source_server: PostgresPeer, tiny: str, nas: DirectoryStore, usb: DirectoryStore
) -> None:
    """The copy is read back from the good target: when that read is wrong, the filled target takes nothing."""
    reading = FaultyStore(nas, Fault("flip", on="read", keys="*/dump.pgc.zst", offset=100))
    failing = FaultyStore(usb, Fault("error", on="write", keys="*/dump.pgc.zst"))
    result = capture(source_server, tiny, reading, failing)
    expect_only(result, nas, "usb", "another digest than its manifest says")
    assert list_store(usb).backups == []


@pytest.mark.parametrize("encrypted", [False, True])
def test_all_targets_dead_is_an_error_that_names_each(
    source_server: PostgresPeer, noisy: str, nas: DirectoryStore, usb: DirectoryStore, key: Key, encrypted: bool
) -> None:
    stores = [
        FaultyStore(store, Fault("error", on="write", keys="*/dump.*", offset=offset, times=9))
        for store, offset in ((nas, 0), (usb, 3 * MIB))
    ]
    with pytest.raises(CaptureFailed) as caught:
        capture(source_server, noisy, *stores, options=key.options if encrypted else PLAIN)
    for name in ("nas", "usb"):
        assert f"{name}: writing " in str(caught.value)
    assert "the test asked for this error" in str(caught.value)
    for store in (nas, usb):
        assert list_store(store) == Listing()
        assert [path for path in store.root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("where", ["*/globals.sql.zst", "*/manifest.json"])
def test_all_targets_dead_at_the_end_lists_nothing(
    source_server: PostgresPeer, tiny: str, nas: DirectoryStore, where: str
) -> None:
    failing = FaultyStore(nas, Fault("error", on="commit", keys=where, times=9))
    with pytest.raises(CaptureFailed, match="the test asked for this error"):
        capture(source_server, tiny, failing)
    assert list_store(nas).backups == []
    assert capture(source_server, tiny, nas).missed == {}
    assert len(listed(nas)) == 1


class _CountingThrottle(Throttle):
    """A limit that counts what it let through."""

    taken = 0

    def take(self, count: int) -> None:
        super().take(count)
        self.taken += count


def test_target_below_its_floor_is_let_go_and_filled(
    source_server: PostgresPeer,
    noisy: str,
    nas: DirectoryStore,
    usb: DirectoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fan_out, "FLOOR_WINDOW_SECONDS", 1.0)
    monkeypatch.setattr(fan_out, "QUEUE_CHUNKS", 2)
    throttle = _CountingThrottle(2_000_000)
    taken: dict[str, int] = {}
    result = capture_database(
        connection_to(source_server),
        noisy,
        [Target(ThrottledStore(usb, throttle), floor=10_000_000), Target(nas, floor=1_000_000)],
        PLAIN,
        lambda step, done, expected: taken.setdefault(step, throttle.taken) and None,
    )
    assert result.filled == ["usb"]
    assert result.missed == {}
    # It may hold the dump back for its window only; at its rate the whole would take ten seconds.
    assert 0 < taken["filling usb"] < result.manifest.bytes / 2
    expect_same(backup_folder(result.manifest.source, result.manifest.id), usb, nas)


@pytest.mark.s3
def test_bucket_above_its_floor_is_kept_though_each_part_takes_longer_than_the_window(
    source_server: PostgresPeer,
    noisy: str,
    nas: DirectoryStore,
    s3_server: S3Server,
    s3_bucket: str,
    proxy: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """8 MiB in two seconds: the writer takes the chunk that fills a part, and no other until the part is sent."""
    monkeypatch.setattr(fan_out, "FLOOR_WINDOW_SECONDS", 0.8)
    monkeypatch.setattr(fan_out, "QUEUE_CHUNKS", 2)
    proxy.set("slow", 4 * MIB)
    bucket = behind(proxy, s3_server, s3_bucket)
    targets = [Target(bucket, floor=500_000), Target(nas)]
    result = capture_database(connection_to(source_server), noisy, targets, PLAIN)
    assert (result.filled, result.missed) == ([], {})
    expect_same(backup_folder(result.manifest.source, result.manifest.id), bucket, nas)


@pytest.mark.s3
def test_bucket_below_its_floor_is_let_go_though_each_part_takes_less_than_the_window(
    source_server: PostgresPeer,
    noisy: str,
    nas: DirectoryStore,
    s3_server: S3Server,
    s3_bucket: str,
    proxy: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between two parts it takes chunks at once, which is not to keep up."""
    monkeypatch.setattr(fan_out, "FLOOR_WINDOW_SECONDS", 3.0)
    monkeypatch.setattr(fan_out, "QUEUE_CHUNKS", 2)
    proxy.set("slow", 4 * MIB)
    steps: list[str] = []

    def come_back(step: str, done: int, expected: int) -> None:
        if step.startswith("filling") and step not in steps:
            proxy.set("pass")
        steps.append(step)

    targets = [Target(behind(proxy, s3_server, s3_bucket), floor=40_000_000), Target(nas)]
    result = capture_database(connection_to(source_server), noisy, targets, PLAIN, come_back)
    assert (result.filled, result.missed) == (["bucket"], {})


@pytest.mark.s3
def test_bucket_that_is_slow_does_not_stand_still(
    source_server: PostgresPeer,
    noisy: str,
    nas: DirectoryStore,
    s3_server: S3Server,
    s3_bucket: str,
    proxy: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A part takes eight seconds; in the last 2.5, while the kernel sends what it holds, it seems to stand still."""
    monkeypatch.setattr(fan_out, "STALL_SECONDS", 6.0)
    monkeypatch.setattr(fan_out, "QUEUE_CHUNKS", 2)
    proxy.set("slow", MIB)
    bucket = behind(proxy, s3_server, s3_bucket, read_timeout=60)
    result = capture(source_server, noisy, bucket, nas)
    assert (result.filled, result.missed) == ([], {})


def test_only_target_is_not_let_go_however_slow(
    source_server: PostgresPeer, noisy: str, usb: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fan_out, "FLOOR_WINDOW_SECONDS", 0.3)
    monkeypatch.setattr(fan_out, "QUEUE_CHUNKS", 2)
    slow = ThrottledStore(usb, 8_000_000)
    result = capture_database(connection_to(source_server), noisy, [Target(slow, floor=1_000_000_000)], PLAIN)
    assert result.missed == {}


class _Stalled(DirectoryStore):
    """A directory on a dead NFS mount: a write never returns, until the test lets it go."""

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(root, name)
        self.released = threading.Event()

    def writer(self, key: str, expected_bytes: int = 0):  # type: ignore[no-untyped-def]
        self.released.wait(60)
        raise StoreUnavailable(f"writing {key}", "the mount was dead", "")


def test_target_that_stands_still_is_let_go(
    source_server: PostgresPeer, noisy: str, nas: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fan_out, "STALL_SECONDS", 2.0)
    monkeypatch.setattr(fan_out, "FLOOR_WINDOW_SECONDS", 0.2)
    monkeypatch.setattr(fan_out, "QUEUE_CHUNKS", 2)

    def patience_for_the_good_one(step: str, done: int, expected: int) -> None:
        """The dead one's queue is long full there, so it was let go; an fsync may take what a busy disk takes."""
        if step.startswith("dumping") and done > 20 * MIB:
            monkeypatch.setattr(fan_out, "STALL_SECONDS", 60.0)
        if step.startswith("filling"):
            dead.released.set()

    directory_store(tmp_path / "dead")
    dead = _Stalled(tmp_path / "dead", "dead")
    try:
        targets = [Target(dead), Target(nas)]
        result = capture_database(connection_to(source_server), noisy, targets, PLAIN, patience_for_the_good_one)
    finally:
        dead.released.set()
    expect_only(result, nas, "dead", "stood still for 2 s")
    assert list(dead.root.iterdir()) == []


def test_dead_target_does_not_keep_the_others_from_being_proven(
    source_server: PostgresPeer, tiny: str, nas: DirectoryStore, usb: DirectoryStore
) -> None:
    manifest = capture(source_server, tiny, usb, nas).manifest
    dead = FaultyStore(usb, Fault("error", on="read", keys="*/dump.pgc.zst"))
    copies = {store.name: (dead if store is usb else store, record_of(store, manifest)) for store in (usb, nas)}
    with pytest.raises(StoreUnavailable, match="the test asked for this error"):
        verify_backup(copies, [], ScratchChoice())
    assert record_of(nas, manifest).status == "verified"
    assert record_of(usb, manifest).status == "unverified"
