"""Dagster's storage in SQLite files, as `homelab up` has it: where they are, who uses them; read and never written."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster
import sqlalchemy as db
import yaml
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.runs.schema import BulkActionsTable, DaemonHeartbeatsTable, RunsTable

from homelab_pipelines.housekeeping.errors import MoveRefused

WHAT = "moving the run history"
_INDEX = "index"
# dagster._daemon.daemon: a daemon writes its heartbeat every 30 seconds.
_SILENCE = timedelta(seconds=40)
_RUNS_ENDED = ("SUCCESS", "FAILURE", "CANCELED")
_BACKFILLS_ENDED = ("COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED")


@dataclass(frozen=True)
class SqliteStorage:
    """The files below `folder`: runs, schedules, an index of the events that others refer to, and each run's events."""

    folder: Path

    @classmethod
    def of(cls, dagster_home: Path) -> SqliteStorage:
        """That of an instance. Raises MoveRefused when its storage is another kind, or not there."""
        if not dagster_home.is_dir():
            raise MoveRefused(
                WHAT, f"there is no {dagster_home}", "name the folder of state: homelab --home FOLDER move-history …"
            )
        data = InstanceRef.from_dir(str(dagster_home)).storage_data
        if data is None or data.class_name != "DagsterSqliteStorage":
            kind = data.class_name if data else "several storages"
            raise MoveRefused(
                WHAT,
                f"{dagster_home}/dagster.yaml names {kind}, not SQLite",
                "from one PostgreSQL to another it moves with pg_dump: docs/how-to/move-the-run-history.md",
            )
        found = cls(Path(yaml.safe_load(data.config_yaml)["base_dir"]))
        if absent := [path for path in found._databases() if not path.exists()]:
            raise MoveRefused(WHAT, f"{', '.join(map(str, absent))}: there is no history", "homelab up starts one")
        return found

    @property
    def runs(self) -> Path:
        """Runs, their tags and snapshots, backfills, and the daemon's own values."""
        return self.folder / "history/runs.db"

    @property
    def index(self) -> Path:
        """Assets, checks, pools, and a copy of each event that these refer to."""
        return self.folder / "history/runs" / f"{_INDEX}.db"

    @property
    def schedules(self) -> Path:
        """Schedules and sensors with their ticks."""
        return self.folder / "schedules/schedules.db"

    def _databases(self) -> tuple[Path, Path, Path]:
        return self.runs, self.index, self.schedules

    def shards(self) -> dict[str, Path]:
        """Each run's events by its id; those of no run by the empty text."""
        found = {path.name.removesuffix(".db"): path for path in sorted(self.index.parent.glob("*.db"))}
        del found[_INDEX]
        return found

    def state(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of every file: the same before and after, when nothing was written meanwhile."""
        found = {}
        for path in self.folder.rglob("*"):
            if path.name.endswith((".db", ".db-wal")):
                with contextlib.suppress(FileNotFoundError):  # a log of changes goes when its last reader does
                    stat = path.stat()
                    found[str(path)] = (stat.st_size, stat.st_mtime_ns)
        # An empty log is as good as none.
        return {path: each for path, each in found.items() if each[0] or path.endswith(".db")}

    def expect_known_form(self) -> None:
        """Raises MoveRefused unless every file has the form that the installed Dagster writes."""
        for path in (*self._databases(), *self.shards().values()):
            with reading(path) as connection:
                expect_revision(connection, str(path), f"DAGSTER_HOME={self.folder} dagster instance migrate")

    def expect_unused(self, say: Callable[[str], None]) -> None:
        """Raises MoveRefused while something goes on there. Waits when a daemon has just been seen: is it still there?

        `say` is told that it waits.
        """
        with reading(self.runs) as connection:
            unfinished = _counts(connection, RunsTable.c.status, _RUNS_ENDED)
            backfills = _counts(connection, BulkActionsTable.c.status, _BACKFILLS_ENDED)
        if unfinished or backfills:
            counted = ", ".join(f"{count} {status}" for status, count in (unfinished | backfills).items())
            raise MoveRefused(
                WHAT,
                f"runs of it have not ended: {counted}",
                "let them end; homelab up marks those as failed whose process is gone",
            )
        first, waited = self._heartbeat(), False
        while first is not None and (age := datetime.now(UTC) - first) < _SILENCE:
            if not waited:
                say(f"a daemon was there {max(0.0, age.total_seconds()):.0f} s ago: waiting whether it still is …")
                waited = True
            time.sleep(1)
            if self._heartbeat() != first:
                raise MoveRefused(
                    WHAT, f"a daemon works with {self.folder}", "end the homelab up, or the daemon, that uses it"
                )

    def _heartbeat(self) -> datetime | None:
        with reading(self.runs) as connection:
            newest = connection.execute(db.select(db.func.max(DaemonHeartbeatsTable.c.timestamp))).scalar()
        return None if newest is None else newest.replace(tzinfo=UTC)


def _counts(connection: db.Connection, status: db.Column[str], ended: tuple[str, ...]) -> dict[str, int]:
    query = db.select(status, db.func.count()).where(status.not_in(ended)).group_by(status)
    return {str(name): int(count) for name, count in connection.execute(query)}


@contextmanager
def reading(path: Path, in_use: bool = False) -> Iterator[db.Connection]:
    """A connection that cannot write.

    Not `in_use`: nobody writes meanwhile. Then SQLite makes no file beside it, unless a log of changes waits there.
    """
    log = path.with_name(f"{path.name}-wal")
    mode = "mode=ro" if in_use or (log.exists() and log.stat().st_size) else "immutable=1"
    engine = db.create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True), poolclass=db.NullPool
    )
    with engine.connect() as connection:
        yield connection


def expect_revision(connection: db.Connection, where: str, next_step: str) -> None:
    """Raises MoveRefused unless a database has the revision of the installed Dagster."""
    found, known = MigrationContext.configure(connection).get_current_revision(), _known_revision()
    if found != known:
        raise MoveRefused(
            WHAT,
            f"{where} has the form {found or 'of no known version'}, the installed Dagster's is {known}",
            next_step,
        )


@functools.cache
def _known_revision() -> str | None:
    """That of the installed Dagster: it has a hundred scripts to read for it."""
    return ScriptDirectory(str(Path(dagster.__file__).parent / "_core/storage/alembic")).get_current_head()
