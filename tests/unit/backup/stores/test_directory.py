"""What a directory store does when the system calls that make a file durable fail."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from homelab_pipelines.backup.errors import BackupError, StoreRefused, StoreUnavailable
from homelab_pipelines.backup.stores.base import get, put
from homelab_pipelines.backup.stores.directory import DirectoryStore

CAUSES = [
    (errno.ENOSPC, StoreUnavailable, "no space is left"),
    (errno.EDQUOT, StoreUnavailable, "quota"),
    (errno.EROFS, StoreUnavailable, "mounted read-only"),
    (errno.EACCES, StoreRefused, "permission denied"),
    (errno.EIO, StoreUnavailable, "input/output error"),
    (errno.ESTALE, StoreUnavailable, "replaced under its mount"),
    (errno.ENOENT, StoreUnavailable, "vanished"),
    (errno.ENODEV, StoreUnavailable, "No such device"),
]


def fail_fsync(monkeypatch: pytest.MonkeyPatch, number: int, of_folders: bool) -> None:
    """Let fsync of files, or of folders, fail with the errno `number`, as a disk or server may at any time."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == of_folders:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("of_folders", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize(("number", "kind", "why"), CAUSES, ids=[errno.errorcode[cause[0]] for cause in CAUSES])
def test_failed_fsync_is_explained_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[BackupError], why: str, of_folders: bool
) -> None:
    store = DirectoryStore(tmp_path, "nas")
    put(store, "earlier/dump", b"earlier")
    fail_fsync(monkeypatch, number, of_folders)
    with pytest.raises(kind, match=why) as caught:
        put(store, "server/db/dump", b"x")
    assert str(tmp_path / "server/db/dump") in str(caught.value)
    assert caught.value.next_step
    assert caught.value.retryable == (kind is StoreUnavailable)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["dump", "earlier"]
    assert get(store, "earlier/dump") == b"earlier"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_file_system_that_cannot_sync_folders_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = DirectoryStore(tmp_path, "nas")
    fail_fsync(monkeypatch, number, of_folders=True)
    put(store, "server/db/dump", b"x")
    assert get(store, "server/db/dump") == b"x"


def test_failed_check_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_fsync(monkeypatch, errno.EIO, of_folders=False)
    with pytest.raises(StoreUnavailable, match="input/output error"):
        DirectoryStore(tmp_path / "new", "nas").check()
    assert list(tmp_path.iterdir()) == []
