"""A directory store on disks that are full, read-only, gone or not mounted: what it says, and what it leaves."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from homelab_pipelines.backup.errors import StoreRefused, StoreUnavailable
from homelab_pipelines.backup.stores.base import get, put
from homelab_pipelines.backup.stores.directory import DirectoryStore
from tests.peers import missing

MIB = 1 << 20


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)), capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        missing(f"no file system can be mounted here (root is needed): {mounted.stderr.strip()}")
    yield folder
    subprocess.run(("umount", "--lazy", str(folder)), check=False)


def test_full_disk_is_said_and_leaves_nothing(small_disk: Path) -> None:
    store = DirectoryStore(small_disk, "nas")
    put(store, "server/db/earlier/dump", b"earlier")
    writer = store.writer("server/db/id/dump")
    with pytest.raises(StoreUnavailable) as caught:
        for _ in range(8):
            writer.write(bytes(MIB))
    assert "no space is left" in str(caught.value)
    assert str(small_disk / "server/db/id/dump") in str(caught.value)
    assert "homelab prune" in caught.value.next_step
    assert everything(small_disk) == ["server", "server/db", "server/db/earlier", "server/db/earlier/dump"]
    put(store, "server/db/next/dump", bytes(MIB))
    assert get(store, "server/db/earlier/dump") == b"earlier"


def test_disk_that_is_full_already_fails_the_check(small_disk: Path) -> None:
    with (small_disk / "ballast").open("wb") as ballast, pytest.raises(OSError, match="No space"):
        while True:
            ballast.write(bytes(1 << 16))
            ballast.flush()
    with pytest.raises(StoreUnavailable, match="no space is left"):
        DirectoryStore(small_disk, "nas").check()
    assert everything(small_disk) == ["ballast"]


def test_read_only_mount_is_said_and_still_read(small_disk: Path) -> None:
    store = DirectoryStore(small_disk, "nas")
    put(store, "server/db/id/dump", b"x")
    begun = store.writer("server/db/begun/dump")
    begun.abort()
    subprocess.run(("mount", "-o", "remount,ro", str(small_disk)), check=True)
    for attempt in (
        store.check,
        lambda: put(store, "server/db/new/dump", b"y"),
        lambda: store.delete("server/db/id/dump"),
    ):
        with pytest.raises(StoreUnavailable, match="mounted read-only") as caught:
            attempt()
        assert "remount" in caught.value.next_step
    assert get(store, "server/db/id/dump") == b"x"


def test_unmounting_in_the_middle_refuses_the_commit(small_disk: Path) -> None:
    store = DirectoryStore(small_disk, "nas", require_mount=True)
    store.mark()
    writer = store.writer("server/db/id/dump")
    writer.write(b"x")
    subprocess.run(("umount", "--lazy", str(small_disk)), check=True)
    with pytest.raises(StoreUnavailable, match="is not mounted"):
        writer.commit()
    assert everything(small_disk) == []


def test_unmounted_mount_point_is_refused_by_every_call(tmp_path: Path) -> None:
    root = tmp_path / "nas"
    root.mkdir()
    store = DirectoryStore(root, "nas", require_mount=True)
    calls = (
        store.check,
        lambda: store.writer("a/b"),
        lambda: get(store, "a/b"),
        lambda: list(store.scan()),
        lambda: store.delete("a/b"),
        lambda: store.sweep(timedelta(), datetime.now(UTC)),
    )
    for call in calls:
        with pytest.raises(StoreUnavailable) as caught:
            call()
        assert f"{root} is not mounted: marker file {root}/.homelab-backups is missing" in str(caught.value)
        assert "homelab mark-target nas" in caught.value.next_step
    assert everything(root) == []
    store.mark()
    store.mark()
    store.check()
    put(store, "a/b", b"x")
    assert [listed.key for listed in store.scan()] == ["a/b"]


def test_marker_gone_before_commit_refuses_it_and_leaves_nothing(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, "nas", require_mount=True)
    store.mark()
    writer = store.writer("server/db/id/dump")
    writer.write(b"x")
    (tmp_path / ".homelab-backups").unlink()
    with pytest.raises(StoreUnavailable, match="is not mounted"):
        writer.commit()
    assert everything(tmp_path) == []


def test_missing_root_without_require_mount_is_made_private(tmp_path: Path) -> None:
    root = tmp_path / "new" / "store"
    store = DirectoryStore(root, "nas")
    assert list(store.scan()) == []
    put(store, "server/db/id/dump", b"x")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*"))}
    assert modes.pop(root / "server/db/id/dump") == 0o600
    assert set(modes.values()) == {0o700}


def test_reading_from_a_missing_root_is_unavailable_not_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="the folder has vanished"):
        get(DirectoryStore(tmp_path / "gone", "nas"), "a/b")


def test_file_in_place_of_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = DirectoryStore(tmp_path / "file", "nas")
    for call in (store.check, lambda: put(store, "a/b", b"x"), lambda: list(store.scan())):
        with pytest.raises(StoreRefused, match="a file stands where a folder must be"):
            call()


UNPRIVILEGED = """
import os, sys
from homelab_pipelines.backup.errors import StoreRefused
from homelab_pipelines.backup.stores.base import get
from homelab_pipelines.backup.stores.directory import DirectoryStore
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
store = DirectoryStore(sys.argv[1], "nas")
for call in (store.check, lambda: store.delete("a/b"), lambda: list(store.scan()), lambda: get(store, "a/b")):
    try:
        call()
    except StoreRefused as error:
        assert "permission denied" in str(error) and "chown" in error.next_step, error
        print("refused")
"""


def test_folder_of_another_user_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        put(DirectoryStore(root, "nas"), "a/b", b"x")
        Path(folder).chmod(0o755)
        if os.geteuid() != 0:
            root.chmod(0)
        command = (sys.executable, "-c", UNPRIVILEGED, str(root))
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        root.chmod(0o700)
    assert said.stdout.split() == ["refused"] * 4, said.stderr


def test_delete_removes_empty_folders_but_not_the_root(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, "nas")
    put(store, "a/b/c/one", b"x")
    put(store, "a/b/two", b"x")
    store.delete("a/b/c/one")
    assert everything(tmp_path) == ["a", "a/b", "a/b/two"]
    store.delete("a/b/two")
    assert everything(tmp_path) == []
    assert tmp_path.is_dir()


def test_sweep_removes_old_empty_folders_and_keeps_young_ones(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, "nas")
    (tmp_path / "a/b").mkdir(parents=True)
    now = datetime.now(UTC)
    assert store.sweep(timedelta(hours=1), now) == []
    assert everything(tmp_path) == ["a", "a/b"]
    store.sweep(timedelta(hours=1), now + timedelta(hours=2))
    assert everything(tmp_path) == []


def test_scan_tolerates_files_that_vanish_and_skips_what_is_no_object(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, "nas")
    store.mark()
    for number in range(200):
        put(store, f"a/{number}/x", b"x")
    (tmp_path / "a/link").symlink_to(tmp_path)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found" / "x").touch()
    seen: list[str] = []
    for listed in store.scan():
        if not seen:
            for number in range(200):
                store.delete(f"a/{number}/x")
        seen.append(listed.key)
    assert 1 <= len(seen) < 200
    assert list(store.scan()) == []


def test_writers_beside_deletes_of_the_same_folder_never_fail(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, "nas")
    stop, failures = threading.Event(), []

    def delete_and_sweep() -> None:
        while not stop.is_set():
            try:
                store.delete("a/b/none")
                store.sweep(timedelta(hours=-1), datetime.now(UTC) - timedelta(hours=2))
            except Exception as error:
                failures.append(error)

    beside = threading.Thread(target=delete_and_sweep)
    beside.start()
    try:
        for number in range(300):
            put(store, "a/b/c", b"%d" % number)
            assert get(store, "a/b/c") == b"%d" % number
            store.delete("a/b/c")
    finally:
        stop.set()
        beside.join()
    assert failures == []
