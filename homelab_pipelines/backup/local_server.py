"""Local PostgreSQL servers: throw-away ones to restore a backup into, and a lasting one for the demo homelab.

Knows nothing of backups. No server outlives the process that started it, however that process ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg import sql

from homelab_pipelines.backup import process_identity
from homelab_pipelines.backup.os_user import LocalServerFailed as LocalServerFailed
from homelab_pipelines.backup.os_user import OsUser, make_open, server_user, usable_by
from homelab_pipelines.backup.postmaster import LocalServer as LocalServer
from homelab_pipelines.backup.postmaster import end_server_of, run_server, wait_for_former
from homelab_pipelines.backup.programs import Installation

# A name that no restored role has, so that every role of a backup, postgres too, can be created beside it.
SCRATCH_SUPERUSER = "homelab_scratch"
SCRATCH_PREFIX = "homelab-scratch-"
TEMPLATE_PREFIX = "homelab-template-"
OWNER_FILE = "owner.json"
PORT = 5432
# sockaddr_un.sun_path holds 108 bytes with the final zero on Linux, 104 on macOS (unix(7)).
SOCKET_PATH_BYTES = 103
# Speed before durability: when the machine stops, a scratch cluster is worth nothing anyway.
SCRATCH_SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "shared_buffers": "128MB",
    "maintenance_work_mem": "128MB",
    "max_connections": "40",
    # A restore in one transaction locks every object it makes.
    "max_locks_per_transaction": "512",
}
WEEK = 7 * 24 * 3600
_RECOVERY_SECONDS = 600.0


@contextmanager
def scratch_server(
    installation: Installation, parent: Path | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[LocalServer]:
    """Run a throw-away server in a new folder below `parent` (default: /var/tmp) until the block ends.

    It listens on a socket in a private folder only; the one role is the superuser `homelab_scratch`. `settings` are
    server parameters in addition to SCRATCH_SETTINGS. Raises LocalServerFailed with the end of the server's log.
    """
    user = server_user()
    usable = usable_by(user, installation)
    parent = (parent or default_parent()).absolute()
    sweep_scratch(parent)
    folder = _scratch_folder(parent, user)
    try:
        data = user.own(folder / "data")
        _copy_template(usable, user, parent, data)
        sockets = _socket_folder(folder, user)
        if sockets.parent != folder:
            _write_owner(folder, sockets)
        fast = {**SCRATCH_SETTINGS, "listen_addresses": "", **_in_place_tablespaces(usable.major), **(settings or {})}
        with run_server(usable, user, data, sockets, PORT, SCRATCH_SUPERUSER, fast, signal.SIGQUIT) as server:
            yield server
    finally:
        _remove_scratch(folder)


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A private folder below `parent` (default: /var/tmp) for what must not stay, removed when the block ends.

    When this process is killed, `sweep_scratch` removes it; the next scratch server or folder there calls that.
    Raises LocalServerFailed when it cannot be made.
    """
    parent = parent or default_parent()
    sweep_scratch(parent)
    try:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=parent))
    except OSError as error:
        raise LocalServerFailed(f"making a scratch folder below {parent}", str(error)) from error
    try:
        _write_owner(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def persistent_server(
    installation: Installation,
    home: Path,
    *,
    port: int | None = None,
    superuser: str = "postgres",
    password: str,
    settings: Mapping[str, str] | None = None,
) -> Iterator[LocalServer]:
    """Run a durable server on 127.0.0.1 from `home`/data, made at the first call, until the block ends.

    `port` None takes a free one. The superuser's password (scram) is set anew at every start. It ends with a fast
    shutdown, also when the starting process is killed. Raises LocalServerFailed when `home` cannot be reached by the
    user the server runs as, belongs to another major version, or is already being served.
    """
    user = server_user()
    usable = usable_by(user, installation)
    home = home.absolute()  # the server's own folder is another
    make_open(home, 0o711)
    if not user.can("x", home):
        raise LocalServerFailed(
            f"starting PostgreSQL in {home}",
            f"the user {user.name} that it runs as cannot reach this folder",
            f"choose a folder outside of root's own, or chmod o+x {home} and the folders above it",
        )
    data = home / "data"
    if not data.exists():
        _remove(home, "data.unfinished")
        _initdb(usable, user, user.own(home / "data.unfinished"), superuser, durable=True)
        (home / "data.unfinished").rename(data)
    _expect_major(data, usable)
    wait_for_former(data)
    _remove(home, "s")
    sockets = _socket_folder(home, user)
    merged = {"listen_addresses": "127.0.0.1", "max_connections": "100", **(settings or {})}
    try:
        with run_server(
            usable, user, data, sockets, port or free_port(), superuser, merged, signal.SIGINT, _RECOVERY_SECONDS
        ) as server:
            _set_password(server, password)
            yield server
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def sweep_scratch(parent: Path | None = None) -> list[str]:
    """Remove the scratch folders below `parent` whose starting process is gone, ending a server still running there.

    Returns the folders removed. Only folders of our own user are looked at.
    """
    removed = []
    for folder in sorted((parent or default_parent()).glob(f"{SCRATCH_PREFIX}*")):
        with suppress(FileNotFoundError):
            found = folder.lstat()
            ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
            if ours and not process_identity.owner_may_live(folder / OWNER_FILE, found.st_mtime):
                end_server_of(folder / "data")
                _remove_scratch(folder)
                removed.append(str(folder))
    return removed


def default_parent() -> Path:
    """Where scratch clusters go: /var/tmp, which is on disk where /tmp may be memory, and open to every user."""
    folder = Path("/var/tmp")  # noqa: S108 - what is made in it is a private folder with a random name
    return folder if os.access(folder, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _initdb(installation: Installation, user: OsUser, data: Path, superuser: str, *, durable: bool) -> None:
    options = ["--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C"]
    options += ["--data-checksums"] if durable else ["--no-sync"]
    command = (installation.program("initdb"), "-D", str(data), f"--username={superuser}", *options)
    done = user.run(*command)
    if done.returncode != 0:
        raise LocalServerFailed(f"making a PostgreSQL cluster in {data} (initdb)", done.stderr.strip())


def _copy_template(installation: Installation, user: OsUser, parent: Path, data: Path) -> None:
    """Fill `data` with a new cluster. Copying a finished one takes 0.06 s where initdb takes 0.5 to 0.7 s."""
    template = _template(installation, user, parent)
    if template and user.run("cp", "-Rp", f"{template}/.", f"{data}/").returncode == 0:
        return
    shutil.rmtree(data)
    _initdb(installation, user, user.own(data), SCRATCH_SUPERUSER, durable=False)


def _template(installation: Installation, user: OsUser, parent: Path) -> Path | None:
    """A finished cluster to copy, made at the first call of a week; None when there is none that can be trusted.

    It is never replaced, so that nobody copies half of one and half of another: next week's has another name. Cleaners
    of temporary files take what is older (10 days in /tmp, 30 in /var/tmp: systemd's tmpfiles.d/tmp.conf).
    """
    program = Path(installation.program("postgres"))
    mark = hashlib.sha256(f"{program} {program.stat().st_mtime_ns}".encode()).hexdigest()[:8]
    week = int(time.time() / WEEK)
    template = parent / f"{TEMPLATE_PREFIX}{installation.version}-{mark}-{user.uid}-{week}"
    if not template.exists():
        _remove_old_templates(parent, user)
        aside = _scratch_folder(parent, user)
        try:
            _initdb(installation, user, user.own(aside / "data"), SCRATCH_SUPERUSER, durable=False)
            # Where another process was first this fails, for a folder with something in it is not replaced.
            with suppress(OSError):
                (aside / "data").rename(template)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    try:
        found = template.lstat()
    except FileNotFoundError:
        return None
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == user.uid and not found.st_mode & 0o077
    return template if private else None


def _remove_old_templates(parent: Path, user: OsUser) -> None:
    for template in parent.glob(f"{TEMPLATE_PREFIX}*-{user.uid}-*"):
        with suppress(OSError):
            found = template.lstat()
            if found.st_uid == user.uid and found.st_mtime < time.time() - 2 * WEEK:
                shutil.rmtree(template)


def _scratch_folder(parent: Path, user: OsUser) -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=parent))
    except OSError as error:
        raise LocalServerFailed(f"making a scratch cluster below {parent}", str(error)) from error
    _write_owner(folder)
    if user.drops:
        # The folder stays ours, so that only we say whose it is; the server's user owns what is inside.
        folder.chmod(0o711)
        if not user.can("x", folder):
            shutil.rmtree(folder)
            raise LocalServerFailed(
                f"making a scratch cluster below {parent}",
                f"the user {user.name} that the server runs as cannot reach it",
                f"choose a folder open to all, such as /var/tmp, or chmod o+x {parent} and the folders above it",
            )
    return folder


def _write_owner(folder: Path, sockets: Path | None = None) -> None:
    owner = process_identity.this_process() | {"sockets": str(sockets) if sockets else None}
    (folder / f"{OWNER_FILE}.new").write_text(json.dumps(owner))
    (folder / f"{OWNER_FILE}.new").replace(folder / OWNER_FILE)


def _socket_folder(folder: Path, user: OsUser) -> Path:
    """`folder`/s, or a folder of its own below the temporary folder when that path is too long for a socket."""
    sockets = folder / "s"
    if len(os.fsencode(sockets / f".s.PGSQL.{65535}.lock")) <= SOCKET_PATH_BYTES:
        return user.own(sockets)
    return user.own_temporary(SCRATCH_PREFIX)


def _remove_scratch(folder: Path) -> None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        sockets = Path(json.loads((folder / OWNER_FILE).read_text())["sockets"])
        if sockets.name.startswith(SCRATCH_PREFIX):
            shutil.rmtree(sockets)
    # The owner file goes last, so that a sweep can finish what is interrupted here.
    for inner in ("data", "s"):
        shutil.rmtree(folder / inner, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _remove(home: Path, name: str) -> None:
    if (home / name).exists():
        shutil.rmtree(home / name)


def _in_place_tablespaces(major: int) -> dict[str, str]:
    """From 15 on a tablespace can be restored without the folder it had on its own machine."""
    return {"allow_in_place_tablespaces": "on"} if major >= 15 else {}


def _expect_major(data: Path, installation: Installation) -> None:
    found = cluster_major(data)
    if found != installation.major:
        raise LocalServerFailed(
            f"starting PostgreSQL {installation.major} in {data}",
            f"the cluster there was made by PostgreSQL {found}",
            f"install PostgreSQL {found} again, or move {data.parent} away and start anew",
        )


def cluster_major(data: Path) -> int | None:
    """The major version that made the cluster in `data`; None where there is none."""
    try:
        return int((data / "PG_VERSION").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _set_password(server: LocalServer, password: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        # Hashed here, so that the password itself never reaches the server's log.
        hashed = connection.pgconn.encrypt_password(password.encode(), server.user.encode(), b"scram-sha-256").decode()
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(server.user), sql.Literal(hashed))
        )
