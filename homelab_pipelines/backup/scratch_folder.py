"""Folders for what must not stay: each is its process's own as long as that lives, and swept by the next when it died.

Whose a folder is says a lock on a file in it (flock(2)), which the kernel takes back however its holder ends: at no
moment of its making or its removal is there a folder that a sweep takes for another's. Process numbers, which come
again, play no part, and containers that share a folder see each other's locks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from homelab_pipelines.backup.errors import VerificationImpossible
from homelab_pipelines.backup.postmaster import end_server_of

SCRATCH_PREFIX = "homelab-scratch-"
# A file in a scratch folder that names another folder which has to go with it.
COMPANION = "companion"
# The file that is locked. NFS locks only what is open for writing, which a folder cannot be (flock(2)).
LOCK = "lock"
# A sweep comes between a folder's making and its locking once in a while, never a hundred times in a row.
_ATTEMPTS = 100


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A private folder below `parent` (default: /var/tmp), removed when the block ends.

    When this process is killed, the next `sweep_scratch` there removes it; each scratch folder begins with one.
    Raises VerificationImpossible when it cannot be made.
    """
    parent = (parent or default_parent()).absolute()
    sweep_scratch(parent)
    folder, lock = _make(parent)
    try:
        yield folder
    finally:
        _remove(folder, lock)


def sweep_scratch(parent: Path | None = None) -> list[str]:
    """Remove the scratch folders below `parent` that nobody holds, ending a server that still runs in one.

    Returns the folders removed. Only folders of our own user are looked at.
    """
    removed = []
    for folder in sorted((parent or default_parent()).glob(f"{SCRATCH_PREFIX}*")):
        try:
            lock = _take(folder)
        except OSError:  # held, gone, or not ours
            continue
        end_server_of(folder / "data")
        _remove(folder, lock)
        removed.append(str(folder))
    return removed


def default_parent() -> Path:
    """Where scratch folders go: /var/tmp, which is on disk where /tmp may be memory, and open to every user."""
    folder = Path("/var/tmp")  # noqa: S108 - what is made in it is a private folder with a random name
    return folder if os.access(folder, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


def remove_companion(folder: Path) -> None:
    """Remove the folder that `folder` names as one that goes with it, if it names one."""
    with suppress(OSError):
        companion = Path((folder / COMPANION).read_text())
        if companion.name.startswith(SCRATCH_PREFIX):
            shutil.rmtree(companion)


def _make(parent: Path) -> tuple[Path, int]:
    refusal: OSError | None = None
    for _ in range(_ATTEMPTS):
        try:
            folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=parent))
        except OSError as error:
            raise VerificationImpossible(
                f"making a scratch folder below {parent}", str(error), "name another folder: --scratch"
            ) from error
        try:
            return folder, _take(folder)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            refusal = error
            # A sweep of another process may come between the two calls: then the folder is its, and we make another.
            if not isinstance(error, (BlockingIOError, FileNotFoundError)):
                break
    raise VerificationImpossible(
        f"making a scratch folder below {parent}",
        f"it cannot be locked, and without a lock a sweep would take it away: {refusal}",
        "name a folder on a local disk: --scratch",
    ) from refusal


def _take(folder: Path) -> int:
    """The lock on a folder, as a file descriptor that the caller closes.

    Raises BlockingIOError when another holds it, FileNotFoundError when it is gone, another OSError when it is no
    folder of ours or cannot be locked.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        owner = os.fstat(opened).st_uid
        if owner != os.geteuid():
            raise PermissionError(errno.EPERM, f"it belongs to user {owner}, not to us ({os.geteuid()})", str(folder))
        # Made by whoever comes first, the folder's maker or a sweep after the maker's end.
        lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=opened)
    finally:
        os.close(opened)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(lock), (folder / LOCK).lstat()):
            raise FileNotFoundError(errno.ENOENT, "it was removed meanwhile", str(folder))
    except OSError:
        os.close(lock)
        raise
    return lock


def _remove(folder: Path, lock: int) -> None:
    remove_companion(folder)
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
    # NFS keeps an open file under another name, and its folder with it, until now. Only when it is empty: its maker may
    # have come after the lock's file was removed, and have made and taken a new one.
    with suppress(OSError):
        folder.rmdir()
