"""Local PostgreSQL servers: throw-away ones to restore a backup into, and a lasting one for the demo homelab.

Knows nothing of backups. No server outlives the process that started it, however that process ends.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg import sql

from homelab_pipelines.backup.os_user import LocalServerFailed as LocalServerFailed
from homelab_pipelines.backup.os_user import OsUser, make_open, server_user, usable_by
from homelab_pipelines.backup.postmaster import LocalServer as LocalServer
from homelab_pipelines.backup.postmaster import run_server, wait_for_former
from homelab_pipelines.backup.programs import Installation
from homelab_pipelines.backup.scratch_folder import (
    COMPANION,
    SCRATCH_PREFIX,
    remove_companion,
    scratch_folder,
)

# A name that no restored role has, so that every role of a backup, postgres too, can be created beside it.
SCRATCH_SUPERUSER = "homelab_scratch"
TEMPLATE_PREFIX = "homelab-template-"
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
    with scratch_folder(parent) as folder:
        _let_pass(user, folder)
        data = user.own(folder / "data")
        _copy_template(usable, user, folder.parent, data)
        sockets = _socket_folder(folder, user)
        fast = {**SCRATCH_SETTINGS, "listen_addresses": "", **_in_place_tablespaces(usable.major), **(settings or {})}
        with run_server(usable, user, data, sockets, PORT, SCRATCH_SUPERUSER, fast, signal.SIGQUIT) as server:
            yield server


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
    remove_companion(home)
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
        with scratch_folder(parent) as aside:
            _let_pass(user, aside)
            _initdb(installation, user, user.own(aside / "data"), SCRATCH_SUPERUSER, durable=False)
            # Where another process was first this fails, for a folder with something in it is not replaced.
            with suppress(OSError):
                (aside / "data").rename(template)
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


def _let_pass(user: OsUser, folder: Path) -> None:
    """Let the server's user reach what it owns inside; the folder itself stays ours."""
    if not user.drops:
        return
    folder.chmod(0o711)
    if not user.can("x", folder):
        raise LocalServerFailed(
            f"making a scratch cluster below {folder.parent}",
            f"the user {user.name} that the server runs as cannot reach it",
            f"choose a folder open to all, such as /var/tmp, or chmod o+x {folder.parent} and the folders above it",
        )


def _socket_folder(folder: Path, user: OsUser) -> Path:
    """`folder`/s, or a folder of its own below the temporary folder when that path is too long for a socket."""
    sockets = folder / "s"
    if len(os.fsencode(sockets / f".s.PGSQL.{65535}.lock")) <= SOCKET_PATH_BYTES:
        return user.own(sockets)
    sockets = user.own_temporary(SCRATCH_PREFIX)
    (folder / COMPANION).write_text(str(sockets))
    return sockets


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
