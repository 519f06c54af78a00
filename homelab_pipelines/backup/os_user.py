"""As which user of the operating system a PostgreSQL server runs, and whether that user can reach its programs.

PostgreSQL refuses to run as root. For any other user everything here does nothing.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from homelab_pipelines.backup.errors import VerificationImpossible
from homelab_pipelines.backup.programs import Installation

# Where copies of programs go that stand below a folder closed to other users, such as /root.
COPIES = Path("/var/lib/homelab_pipelines")
_ASIDE = ".unfinished-"
_ASIDE_SECONDS = 3600


class LocalServerFailed(VerificationImpossible):
    """A local PostgreSQL server could not be made or started."""


@dataclass(frozen=True)
class OsUser:
    """A user of the operating system; `drops` is whether our own process must become it."""

    name: str
    uid: int
    gid: int
    drops: bool

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a short command as this user, with a bare environment, and return what it wrote."""
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=bare_environment(),
            cwd=cwd or "/",
            user=self.uid if self.drops else None,
            group=self.gid if self.drops else None,
            extra_groups=[] if self.drops else None,
            umask=0o077,
        )

    def own(self, folder: Path) -> Path:
        """Make `folder`, closed to all others, and give it to this user."""
        folder.mkdir(mode=0o700)
        if self.drops:
            os.chown(folder, self.uid, self.gid)
        return folder

    def own_temporary(self, prefix: str) -> Path:
        """As `own`, with a short random name in the temporary folder."""
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp" if Path("/tmp").is_dir() else None))  # noqa: S108
        if self.drops:
            os.chown(folder, self.uid, self.gid)
        return folder

    def can(self, permission: str, path: Path) -> bool:
        """Whether this user has `permission` (r, w or x) on `path`; asks the system, for access lists count too."""
        return self.run("test", f"-{permission}", str(path)).returncode == 0


@functools.cache
def server_user() -> OsUser:
    """Ourselves; when we are root, the user postgres, or nobody where there is none."""
    if os.geteuid() != 0:
        return OsUser(f"number {os.geteuid()}", os.geteuid(), os.getegid(), drops=False)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return OsUser(name, entry.pw_uid, entry.pw_gid, drops=True)
    raise LocalServerFailed(
        "starting a PostgreSQL server as root",
        "PostgreSQL refuses to run as root, and neither the user postgres nor nobody exists",
        "useradd --system postgres, or run the command as an ordinary user",
    )


def bare_environment() -> dict[str, str]:
    """What a server and its tools need: no PG* variables, no locale, no time zone and no secrets of ours."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def make_open(folder: Path, mode: int = 0o755) -> None:
    """Make `folder` and those above it, where they are missing, so that other users can pass, whatever our umask."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        each.chmod(mode)


def usable_by(user: OsUser, installation: Installation) -> Installation:
    """The installation itself, or a copy of it that `user` can reach.

    A virtual environment below /root is closed to the user that the server runs as. The copy is made once a version,
    in /var/lib/homelab_pipelines or, where that cannot be written, in the temporary folder.
    Raises LocalServerFailed when the installation is of a kind that cannot be copied.
    """
    program = installation.program("postgres")
    if not user.drops or _runs(user, program):
        return installation
    prefix = installation.bin.parent
    if installation.bin.name != "bin" or not (prefix / "lib").is_dir() or not (prefix / "share").is_dir():
        raise LocalServerFailed(
            f"running {program} as the user {user.name}",
            "that user cannot reach it, and it does not stand in a folder of its own that could be copied",
            f"chmod o+x the folders above {prefix}, or install the server with the system's package manager",
        )
    # The wheels link against <package>.libs, which stands beside the package: both are copied, in the same layout.
    package = prefix.parent
    libraries = package.parent / f"{package.name}.libs"
    seen = Path(program).stat()
    mark = hashlib.sha256(f"{program} {seen.st_size} {seen.st_mtime_ns}".encode()).hexdigest()[:12]
    for folder in _copy_folders():
        copy = folder / f"postgres-{installation.version}-{mark}"
        if not _is_ours(copy):
            _copy_aside(copy, {package.name + "/" + prefix.name: prefix, libraries.name: libraries})
        copied = replace(installation, bin=copy / package.name / prefix.name / "bin")
        if _runs(user, copied.program("postgres")):
            return copied
    raise LocalServerFailed(
        f"running {program} as the user {user.name}",
        f"that user cannot reach it, and no folder for a copy that it can run from was found (tried {COPIES} and "
        f"{tempfile.gettempdir()})",
        "install the server with the system's package manager, or run the command as an ordinary user",
    )


def _runs(user: OsUser, program: str) -> bool:
    try:
        return user.run(program, "--version").returncode == 0
    except OSError:
        return False


def _copy_folders() -> Iterator[Path]:
    for folder in (COPIES, Path(tempfile.gettempdir(), f"homelab_pipelines-{os.geteuid()}")):
        try:
            make_open(folder)
        except OSError:
            continue
        if _is_ours(folder) and os.access(folder, os.W_OK):
            yield folder


def _is_ours(folder: Path) -> bool:
    """Programs are run from it: it must be a real folder, our own, and closed to others' writing."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _copy_aside(copy: Path, parts: dict[str, Path]) -> None:
    for leftover in copy.parent.glob(f"{_ASIDE}*"):
        if leftover.stat().st_mtime < time.time() - _ASIDE_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=copy.parent))
    try:
        for name, source in parts.items():
            if source.is_dir():
                shutil.copytree(source, aside / name, symlinks=False)
        for path in (aside, *aside.rglob("*")):
            # An installer with a strict umask leaves files that only we may read.
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        aside.rename(copy)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        # Another process may have finished the same copy first: then it is there.
        if not _is_ours(copy):
            raise LocalServerFailed(f"copying PostgreSQL's programs to {copy}", str(error)) from error
