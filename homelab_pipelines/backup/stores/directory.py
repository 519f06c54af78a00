"""Backups in a folder: a local disk, a USB disk or a NAS mount. Written aside, made durable, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from homelab_pipelines.backup.errors import BackupError, ObjectMissing, StoreRefused, StoreUnavailable
from homelab_pipelines.backup.stores.base import Listed
from homelab_pipelines.backup.stores.keys import MARKER, MAX_PART_BYTES, UNFINISHED, checked_key

ADVISE_EVERY = 32 << 20
CREATE_ATTEMPTS = 100
_MARKER_TEXT = "The backup store of homelab_pipelines is mounted where this file is seen. Do not delete it.\n"
_SKIPPED_AT_ROOT = ("lost+found",)  # ext4 puts it at the root of a file system, readable by root only
_CAUSES: dict[int, tuple[type[BackupError], str, str]] = {
    errno.ENOSPC: (
        StoreUnavailable,
        "no space is left",
        "free space there, or keep fewer backups and run: homelab prune",
    ),
    errno.EDQUOT: (StoreUnavailable, "the quota is used up", "raise the quota, or keep fewer backups: homelab prune"),
    errno.EROFS: (StoreUnavailable, "it is mounted read-only", "see dmesg for a disk fault, then: mount -o remount,rw"),
    errno.EACCES: (StoreRefused, "permission denied", "let this user write there: chown or chmod the folder"),
    errno.EPERM: (StoreRefused, "operation not permitted", "let this user write there: chown, chmod or chattr -i"),
    errno.EIO: (StoreUnavailable, "the disk or network share reports an input/output error", "see dmesg"),
    errno.ESTALE: (StoreUnavailable, "the network share was replaced under its mount", "unmount and mount it again"),
    errno.ENOTCONN: (StoreUnavailable, "its file system has stopped answering", "unmount and mount it again"),
    errno.EHOSTDOWN: (StoreUnavailable, "the file server is down", "start the file server"),
    errno.ETIMEDOUT: (StoreUnavailable, "the file server does not answer", "look after the network and the server"),
    errno.ENOENT: (StoreUnavailable, "the folder has vanished", "mount it, or create the folder"),
    errno.ENOTDIR: (StoreRefused, "a file stands where a folder must be", "move that file away"),
    errno.EISDIR: (StoreRefused, "a folder stands where the file must be", "move that folder away"),
    errno.EEXIST: (StoreRefused, "a file stands where a folder must be", "move that file away"),
    errno.ENAMETOOLONG: (StoreRefused, "the name is too long for this file system", "use a shorter path"),
}


def _explanation(error: OSError, action: str, path: Path) -> BackupError:
    """StoreUnavailable or StoreRefused with the cause of `error` and the next step."""
    unknown = (StoreUnavailable, error.strerror or str(error), "see dmesg and try again")
    kind, why, next_step = _CAUSES.get(error.errno or 0, unknown)
    return kind(f"{action} {path}", why, next_step)


@contextmanager
def _explained(action: str, path: Path) -> Iterator[None]:
    """Turn an OSError inside into its explanation."""
    try:
        yield
    except OSError as error:
        raise _explanation(error, action, path) from error


def _sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable, where the file system can (SMB and some FUSE cannot: EINVAL, ENOTSUP)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _let_go(descriptor: int) -> None:
    """Tell the kernel that these pages are not needed again, so that a big backup does not flush the page cache.

    It starts the writing of dirty pages too, and what is read back later comes from the disk.
    """
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


class _DirectoryWriter:
    def __init__(self, store: DirectoryStore, path: Path) -> None:
        self._store, self._path, self._written, self._advised = store, path, 0, 0
        self._made: list[Path] = []
        self._descriptor: int | None = None
        aside = f"{UNFINISHED}{secrets.token_hex(8)}-{path.name}"
        self._aside = path.with_name(os.fsencode(aside)[:MAX_PART_BYTES].decode(errors="ignore"))
        try:
            with _explained("writing", path):
                self._descriptor = self._create()
        except BackupError:
            self.abort()
            raise

    def _create(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for _ in range(CREATE_ATTEMPTS):
            try:
                self._made += self._store.make_folders(self._path.parent)
                return os.open(self._aside, flags, 0o600)
            except FileNotFoundError:
                continue  # a delete or sweep beside us may remove the empty folder that was just made
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def write(self, data: bytes | memoryview) -> None:
        if self._descriptor is None:
            raise ValueError(f"write to {self._path} after its commit or abort")
        try:
            with _explained("writing", self._path), memoryview(data) as view, view.cast("B") as rest:
                done = 0
                while done < len(rest):
                    count = os.write(self._descriptor, rest[done:])
                    done += count
                    self._written += count
        except BackupError:
            self.abort()
            raise
        if self._written - self._advised >= ADVISE_EVERY:
            self._advised = self._written
            _let_go(self._descriptor)

    @property
    def sent(self) -> int:
        return self._written

    def sync(self) -> None:
        """Make the bytes durable that were written so far."""
        if self._descriptor is not None:
            with _explained("writing", self._path):
                os.fsync(self._descriptor)

    def commit(self) -> None:
        if self._descriptor is None:
            raise ValueError(f"commit of {self._path} after its commit or abort")
        try:
            self._store.require_mounted("writing", self._path)
            self.sync()
            with _explained("writing", self._path):
                _let_go(self._descriptor)
                descriptor, self._descriptor = self._descriptor, None
                os.close(descriptor)
                self._publish()
        except BackupError:
            self.abort()
            raise
        self._made = []

    def _publish(self) -> None:
        self._aside.replace(self._path)
        try:
            # All of them: another writer may have made a folder that we use, and not come to its own commit.
            for folder in self._path.parents:
                _sync_folder(folder)
                if folder == self._store.root:
                    break
            for folder in self._made:
                _sync_folder(folder.parent)
        except OSError:
            # Without this fsync the name may be lost in a power cut: what cannot be promised is not shown.
            self._path.unlink(missing_ok=True)
            raise

    def abort(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None
        with suppress(OSError):
            self._aside.unlink()
        for folder in reversed(self._made):
            with suppress(OSError):
                folder.rmdir()
        self._made = []


class _DirectoryReader:
    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    def read(self, size: int, /) -> bytes:
        with _explained("reading", self._path):
            return os.read(self._descriptor, size)


class DirectoryStore:
    """A BackupStore in the folder `root`; files get mode 0600, folders 0700.

    With `require_mount` nothing is read or written unless the marker file `.homelab-backups` is seen in `root`, which
    `mark` puts there once while the disk or share is mounted: an unmounted mount point is an empty folder without it.
    """

    def __init__(self, root: Path | str, name: str, require_mount: bool = False) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow links and touch a dead mount
        self._name, self._require_mount = name, require_mount

    def __repr__(self) -> str:
        return f"DirectoryStore({str(self.root)!r}, name={self._name!r}, require_mount={self._require_mount})"

    @property
    def name(self) -> str:
        """The target's name in the inventory, or its address."""
        return self._name

    def mark(self) -> None:
        """Put the marker file into the root, once, while the store is mounted. No harm when it is there."""
        with _explained("marking", self.root):
            self._make_root()
            marker = self.root / MARKER
            with suppress(FileExistsError):
                descriptor = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "w") as file:
                    file.write(_MARKER_TEXT)
                    file.flush()
                    os.fsync(descriptor)
                _sync_folder(self.root)

    def check(self) -> None:
        """Write and remove a small file. Raises StoreUnavailable or StoreRefused with the cause."""
        writer = self.writer("check")
        try:
            writer.write(b"written by the check of this store\n")
            writer.sync()
        finally:
            writer.abort()

    def scan(self, prefix: str = "") -> Iterator[Listed]:
        """Finished objects whose key starts with `prefix`; files that vanish meanwhile are left out.

        A root that does not exist yet holds nothing. Raises StoreUnavailable when it is not mounted or fails.
        """
        self.require_mounted("listing", self.root)
        folder = prefix.rpartition("/")[0]
        yield from self._scan_folder(folder and checked_key(folder, str(self.root)), prefix)

    def _scan_folder(self, folder: str, prefix: str) -> Iterator[Listed]:
        for entry in self._entries(self.root / folder):
            key = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith(UNFINISHED) or (not folder and entry.name in (MARKER, *_SKIPPED_AT_ROOT)):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _explanation(error, "listing", self.root / key) from error
            if stat.S_ISDIR(status.st_mode) and (key.startswith(prefix) or prefix.startswith(f"{key}/")):
                yield from self._scan_folder(key, prefix)
            elif stat.S_ISREG(status.st_mode) and key.startswith(prefix):
                yield Listed(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except OSError as error:
            if isinstance(error, FileNotFoundError) or (isinstance(error, NotADirectoryError) and folder != self.root):
                return []
            raise _explanation(error, "listing", folder) from error

    def writer(self, key: str, expected_bytes: int = 0) -> _DirectoryWriter:
        """Start to write an object aside. Raises StoreUnavailable or StoreRefused."""
        path = self._path(key)
        self.require_mounted("writing", path)
        return _DirectoryWriter(self, path)

    @contextmanager
    def open(self, key: str) -> Iterator[_DirectoryReader]:
        """Read an object. Raises ObjectMissing, StoreUnavailable or StoreRefused."""
        path = self._path(key)
        self.require_mounted("reading", path)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            with _explained("reading", self.root):
                self.root.stat()
            what, next_step = f"reading {path}", "homelab backups shows what there is"
            raise ObjectMissing(what, "there is no such file", next_step) from None
        except OSError as error:
            raise _explanation(error, "reading", path) from error
        try:
            yield _DirectoryReader(path, descriptor)
        finally:
            _let_go(descriptor)
            os.close(descriptor)

    def delete(self, key: str) -> None:
        """Remove an object and the folders that become empty; no error when there is none."""
        path = self._path(key)
        self.require_mounted("deleting", path)
        with _explained("deleting", path):
            with suppress(FileNotFoundError):
                path.unlink()
                _sync_folder(path.parent)
            folder = path.parent
            while folder != self.root:
                try:
                    folder.rmdir()
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EBUSY):
                        raise
                    if error.errno != errno.ENOENT:
                        break
                folder = folder.parent

    def sweep(self, older_than: timedelta, now: datetime) -> list[str]:
        """Remove unfinished files and empty folders last changed before `now - older_than`; one line for each."""
        self.require_mounted("sweeping", self.root)
        lines: list[str] = []
        with _explained("sweeping", self.root):
            self._sweep_folder(self.root, (now - older_than).timestamp(), lines)
        return lines

    def _sweep_folder(self, folder: Path, before: float, lines: list[str]) -> None:
        changed = folder.stat().st_mtime  # before anything in it is removed, which changes it
        swept = len(lines)
        for entry in self._entries(folder):
            with suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    if folder != self.root or entry.name not in _SKIPPED_AT_ROOT:
                        self._sweep_folder(Path(entry.path), before, lines)
                elif entry.name.startswith(UNFINISHED):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_mtime < before:
                        Path(entry.path).unlink()
                        lines.append(f"removed the unfinished file {entry.path} ({status.st_size} bytes)")
        if folder != self.root and (changed < before or len(lines) > swept):
            with suppress(OSError):
                folder.rmdir()
                if len(lines) == swept:
                    lines.append(f"removed the empty folder {folder}")

    def location(self, key: str) -> str:
        """The path of the object."""
        return str(self.root / key)

    def require_mounted(self, action: str, path: Path) -> None:
        """Raise StoreUnavailable when `require_mount` is set and the marker file is not seen."""
        if not self._require_mount:
            return
        marker = self.root / MARKER
        with _explained(action, path):
            if marker.exists():
                return
        raise StoreUnavailable(
            f"{action} {path}",
            f"{self.root} is not mounted: marker file {marker} is missing",
            f"mount it, or if this is the first use: homelab mark-target {self._name}",
        )

    def make_folders(self, folder: Path) -> list[Path]:
        """Create `folder` and its missing parents below the root; those created, outermost first."""
        missing = []
        while folder != self.root and not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        made = [] if self._require_mount else self._make_root()
        for each in reversed(missing):
            with suppress(FileExistsError):
                each.mkdir(mode=0o700)
                made.append(each)
        return made

    def _make_root(self) -> list[Path]:
        missing = [folder for folder in (self.root, *self.root.parents) if not folder.is_dir()]
        made = []
        for folder in reversed(missing):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
                made.append(folder)
        return made

    def _path(self, key: str) -> Path:
        return self.root / checked_key(key, str(self.root))
