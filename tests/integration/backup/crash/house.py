"""A house of servers that may be killed, the stores of one test, and the worker that uses them."""

from __future__ import annotations

import json
import os
import random
import secrets
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from homelab_pipelines.backup.connection import APPLICATION
from homelab_pipelines.backup.local_server import LocalServer, persistent_server
from homelab_pipelines.backup.programs import Installation
from homelab_pipelines.backup.stores.base import BackupStore
from tests.integration.backup.crash import worker
from tests.integration.backup.crash.processes import Process, processes, wait_for
from tests.integration.backup.crash.worker import Settings, Task
from tests.peers.ports import free_port
from tests.peers.postgres import SETTINGS
from tests.peers.s3 import S3Server

TASK_SECONDS = 60.0


class KillablePostgres:
    """One cluster on 127.0.0.1 whose port, data and password outlive `kill` and `restart`."""

    def __init__(self, installation: Installation, home: Path) -> None:
        self.port, self.password = free_port(), secrets.token_urlsafe(12)
        self._installation, self._home = installation, home
        self._running = ExitStack()
        self.server: LocalServer

    def start(self) -> None:
        self.server = self._running.enter_context(
            persistent_server(self._installation, self._home, port=self.port, password=self.password, settings=SETTINGS)
        )

    def stop(self) -> None:
        self._running.close()

    def restart(self) -> None:
        """Have it answer again, by its own recovery or by a new start, and nothing of a former life left."""
        if not self.server.alive:
            self._running.close()
            wait_for(lambda: not self.processes(), 30, "the end of a killed server's backends")
            self.start()
        wait_for(self._answers, 120, "the recovery of PostgreSQL")

    def kill(self, whom: str) -> str:
        """SIGKILL to the `postmaster`, `everyone`, or one `backend` (as a kernel out of memory does); whom it hit."""
        server = self.processes()
        backends = [each for each in server if " app 127.0.0.1" in each.command[0]]
        chosen = [each for each in server if each.pid == self.server.pid]
        if whom == "everyone":
            chosen += [each for each in server if each.pid != self.server.pid]
        elif whom == "backend" and backends:
            chosen = backends[:1]
        for each in chosen:
            each.kill()
        return f"{whom}: {chosen[0].command[0]}"

    def processes(self) -> list[Process]:
        """The postmaster and its children."""
        return [each for each in processes() if each.folder == str(self._home / "data")]

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """A superuser's connection that commits each statement."""
        dsn = make_conninfo(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            password=self.password,
            dbname=database,
            connect_timeout=30,  # a database that is being renamed is waited for, 5 s and more
        )
        return psycopg.connect(dsn, autocommit=True)

    def value(self, query: str, database: str = "postgres") -> Any:
        """The first value of the first row."""
        with self.connect(database) as connection:
            row = connection.execute(query.encode()).fetchone()
            assert row is not None
            return row[0]

    def databases(self) -> set[str]:
        with self.connect() as connection:
            return {row[0] for row in connection.execute("SELECT datname FROM pg_database")}

    def has_no_session_of_ours(self) -> bool:
        return not self.value(f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{APPLICATION}'")

    def _answers(self) -> bool:
        try:
            return bool(self.value("SELECT 1") == 1)
        except psycopg.OperationalError:
            return False


@dataclass
class Ended:
    """How a worker ended: `status` (negative: the signal), the outcome it left, and after how many seconds."""

    status: int
    outcome: dict[str, Any]
    seconds: float

    def __str__(self) -> str:
        return f"status {self.status} after {self.seconds:.2f} s: {self.outcome.get('message', self.outcome)}"


@dataclass
class Attempt:
    """A worker on its way. `at` is the time of its start on the monotonic clock."""

    run: str
    pid: int
    at: float
    house: House = field(repr=False)
    outcome: Path = field(repr=False)

    def end(self) -> Ended:
        """Wait until it has ended."""
        status = self.house.hear("ended")
        self.house.under_way = None
        seconds = time.monotonic() - self.at
        found = json.loads(self.outcome.read_text()) if self.outcome.exists() else {}
        return Ended(status, found, seconds)


class House:
    """Servers, a worker's parent, and a folder that scratch servers of this house are made in."""

    def __init__(self, folder: Path, postgres: KillablePostgres, s3: S3Server, identity: tuple[str, str]) -> None:
        self.folder, self.postgres, self.s3 = folder, postgres, s3
        self.scratch = folder / "scratch"
        self.under_way: Attempt | None = None
        self.settings = Settings(
            postgres_port=postgres.port,
            postgres_password=postgres.password,
            endpoint=s3.endpoint,
            access_key=s3.access_key,
            secret_key=s3.secret_key,
            identity=identity[0],
            recipient=identity[1],
            scratch=str(self.scratch),
        )

    @cached_property
    def _parent(self) -> subprocess.Popen[str]:
        program = (sys.executable, str(Path(worker.__file__)))
        parent = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._tell(parent, asdict(self.settings))
        return parent

    def start(self, what: str, place: Place, database: str = "app") -> Attempt:
        """Start a worker on a task; one that a failed test left behind is killed before."""
        if self.under_way is not None:
            with suppress(ProcessLookupError):
                os.kill(self.under_way.pid, signal.SIGKILL)
            self.under_way.end()
        run = uuid.uuid4().hex
        outcome = self.folder / f"outcome-{run}.json"
        task = Task(what, run, str(place.root), place.bucket, str(outcome), database)
        self._tell(self._parent, asdict(task))
        pid = self.hear("started")
        self.under_way = Attempt(run, pid, time.monotonic(), self, outcome)
        return self.under_way

    def hear(self, what: str) -> int:
        """The number that the worker's parent says next. Raises AssertionError after a minute."""
        answers = self._parent.stdout
        assert answers is not None
        ready, _, _ = select.select([answers], [], [], TASK_SECONDS)
        assert ready, f"the worker has not {what} within {TASK_SECONDS} s"
        return int(json.loads(answers.readline())[what])

    def left_in_scratch(self) -> list[str]:
        """What stands in the folder of scratch servers, the templates they are copied from apart."""
        return [each.name for each in self.scratch.iterdir() if not each.name.startswith("homelab-template-")]

    def close(self) -> None:
        """End the worker's parent; it has no worker between two tasks."""
        parent = self._parent
        assert parent.stdin is not None and parent.stdout is not None
        parent.stdin.close()
        try:
            parent.wait(5)
        except subprocess.TimeoutExpired:
            parent.kill()
            parent.wait()
        parent.stdout.close()

    @staticmethod
    def _tell(parent: subprocess.Popen[str], message: dict[str, Any]) -> None:
        assert parent.stdin is not None
        parent.stdin.write(json.dumps(message) + "\n")
        parent.stdin.flush()


@dataclass(frozen=True)
class Place:
    """A folder and a bucket for the backups of one test."""

    root: Path
    bucket: str
    stores: dict[str, BackupStore]


@contextmanager
def killable_postgres(installation: Installation, home: Path) -> Iterator[KillablePostgres]:
    """Run a killable server until the block ends."""
    server = KillablePostgres(installation, home)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def fill(postgres: KillablePostgres, database: str, megabytes: int) -> None:
    """A database with tables, a sequence, an index and large objects, and that many MB nothing can compress."""
    with postgres.connect() as connection:
        connection.execute(f'CREATE DATABASE "{database}" TEMPLATE template0'.encode())
    with postgres.connect(database) as connection:
        connection.execute(
            "CREATE TABLE photo (id serial PRIMARY KEY, name text NOT NULL UNIQUE, content bytea);"
            "CREATE TABLE album (id integer PRIMARY KEY, title text, photos integer[]);"
            "INSERT INTO album SELECT n, 'album ' || n, ARRAY[n, n + 1] FROM generate_series(1, 5000) AS n;"
            "SELECT lo_from_bytea(0, convert_to(repeat('large', n), 'UTF8')) FROM generate_series(1, 20) AS n"
        )
        chance = random.Random(megabytes)
        with connection.cursor().copy("COPY photo (name, content) FROM STDIN") as copy:
            for number in range(megabytes * 16):
                copy.write_row((f"photo {number}", chance.randbytes(1 << 16)))
        connection.execute("ANALYZE")
