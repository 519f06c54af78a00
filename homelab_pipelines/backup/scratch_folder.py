"""Folders for what must not stay: each is its process's own as long as that lives, and swept by the next when it died.

Whose a folder is says a lock on it (flock(2)), which the kernel takes back however its holder ends: at no moment of its
making or its removal is there a folder that a sweep takes for another's. Process numbers, which come again, play no
part, and containers that share a folder see each other's locks.
"""

from __future__ import annotations

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
        _remove(folder)
        os.close(lock)


def sweep_scratch(parent: Path | None = None) -> list[str]:
    """Remove the scratch folders below `parent` that nobody holds, ending a server that still runs in one.

    Returns the folders removed. Only folders of our own user are looked at.
    """
    removed = []
    for folder in sorted((parent or default_parent()).glob(f"{SCRATCH_PREFIX}*")):
        lock = _take(folder)
        if lock is not None:
            end_server_of(folder / "data")
            _remove(folder)
            os.close(lock)
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
    while True:
        try:
            folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=parent))
        except OSError as error:
            raise VerificationImpossible(
                f"making a scratch folder below {parent}", str(error), "name another folder: --scratch"
            ) from error
        # A sweep of another process may come between the two calls: then its folder is gone, and we make another.
        if (lock := _take(folder)) is not None:
            return folder, lock


def _take(folder: Path) -> int | None:
    """The lock on a folder, as a file descriptor that the caller closes; None when it is held, gone, or not ours."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(lock)
        if found.st_uid == os.geteuid() and os.path.samestat(found, folder.lstat()):
            return lock
    os.close(lock)
    return None


def _remove(folder: Path) -> None:
    remove_companion(folder)
    shutil.rmtree(folder, ignore_errors=True)
