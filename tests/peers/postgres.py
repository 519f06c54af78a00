"""Real PostgreSQL servers of the majors 15 to 18 for tests, started when first asked for and ended with the session."""

from __future__ import annotations

import atexit
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from homelab_pipelines.backup.errors import ProgramMissing
from homelab_pipelines.backup.local_server import LocalServer, persistent_server
from homelab_pipelines.backup.programs import Installation, server_for
from homelab_pipelines.backup.scratch_folder import scratch_folder
from tests.peers import missing

MAJORS = (15, 16, 17, 18)
NEWEST = MAJORS[-1]
EXAMPLE = Path(__file__).with_name("example.sql")
# Test servers are thrown away, so speed comes before durability.
SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "60"}

every_major = pytest.mark.parametrize("postgres_server", MAJORS, indirect=True, ids=lambda major: f"pg{major}")


@dataclass(frozen=True)
class PostgresPeer:
    """A running server that listens on 127.0.0.1 (superuser `postgres` with a scram password) and on a socket."""

    server: LocalServer
    password: str = field(repr=False)
    host: str = "127.0.0.1"
    user: str = "postgres"

    @property
    def major(self) -> int:
        return self.server.major

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def installation(self) -> Installation:
        return self.server.installation

    def dsn(self, database: str = "postgres") -> str:
        """Through TCP, with the password in it."""
        return make_conninfo(
            host=self.host, port=self.port, user=self.user, password=self.password, dbname=database, connect_timeout=10
        )

    def socket_dsn(self, database: str = "postgres") -> str:
        """Through the socket, where no password is asked."""
        return self.server.dsn(database)

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A connection of the superuser that commits each statement."""
        return psycopg.connect(self.dsn(database), autocommit=True)

    def create_database(self, name: str | None = None) -> FreshDatabase:
        """A new empty database; a random name unless one is given."""
        database = FreshDatabase(self, name or f"fresh_{secrets.token_hex(6)}")
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(database.name)))
        return database

    def drop_database(self, name: str) -> None:
        """Drop it if it is there, whoever is connected."""
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@dataclass(frozen=True)
class FreshDatabase:
    """An empty database of its own for one test."""

    server: PostgresPeer
    name: str

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.name)

    def connect(self) -> psycopg.Connection:
        return self.server.connect(self.name)


_running: dict[int, PostgresPeer] = {}
_open = ExitStack()
atexit.register(_open.close)


def start_server(major: int, stack: ExitStack) -> PostgresPeer:
    """A new server of `major` that ends with `stack`; for tests that stop or kill it."""
    try:
        installation = server_for(major)
    except ProgramMissing as error:
        missing(str(error))
        raise
    # In a scratch folder: if the tests are killed, the next sweep removes it.
    folder = stack.enter_context(scratch_folder())
    folder.chmod(0o711)
    password = secrets.token_urlsafe(12)
    server = stack.enter_context(persistent_server(installation, folder, password=password, settings=SETTINGS))
    return PostgresPeer(server, password)


def server_of(major: int) -> PostgresPeer:
    """The session's server of `major`, started at the first call. Skips (CI: fails) when it is not installed."""
    if major not in _running:
        _running[major] = start_server(major, _open)
    return _running[major]


def fill_example(dsn: str) -> None:
    """Fill an empty database with some 200 rows and one of everything that a backup must carry (see example.sql)."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(EXAMPLE.read_bytes())


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> PostgresPeer:
    """The session's server: the newest major, or with `@every_major` each one in turn."""
    return server_of(getattr(request, "param", NEWEST))


@pytest.fixture
def fresh_database(postgres_server: PostgresPeer) -> Iterator[FreshDatabase]:
    """A uniquely named empty database of `postgres_server`, dropped afterwards."""
    database = postgres_server.create_database()
    yield database
    postgres_server.drop_database(database.name)


@pytest.fixture
def example_database(fresh_database: FreshDatabase) -> FreshDatabase:
    """A database with one of everything that a backup must carry."""
    fill_example(fresh_database.dsn)
    return fresh_database
