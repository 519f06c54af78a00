"""A run history copied from SQLite files into an empty PostgreSQL database: all in one transaction, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import sqlalchemy as db
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.runs.schema import RunsTable
from dagster_postgres import DagsterPostgresStorage

from homelab_pipelines.housekeeping.errors import MoveFailed, MoveRefused
from homelab_pipelines.housekeeping.history_rows import EVENTS, MIGRATIONS, count_of, history, kept_cursors, tables
from homelab_pipelines.housekeeping.sqlite_storage import WHAT, SqliteStorage, expect_revision, reading

Progress = Callable[[str, int, int], None]
_BATCH = 1000
# An advisory lock, so that two moves into one database do not meet.
_LOCK = int.from_bytes(b"homelab", "big")
_LOCK_SECONDS = 10
# A daemon that has just been started says so of every asset with a promised age.
_IDLE_EVENT = "FRESHNESS_STATE_CHANGE"
_QUIET_SECONDS = 2.0


@dataclass(frozen=True)
class Moved:
    """Rows by table: `copied`, and `replaced`, which a start of Dagster had left in the target.

    `kept_cursors` are sensors whose cursor could not be understood: it was copied as it was.
    """

    copied: dict[str, int]
    replaced: dict[str, int]
    kept_cursors: list[str]


def move_history(source: SqliteStorage, url: db.URL, progress: Progress) -> Moved:
    """Copy everything of `source`, which stays as it is, into the database of `url` (driver psycopg2).

    Every table is counted on both sides before it counts as done. `progress` is told the table, the rows so far and
    those expected. Raises MoveRefused when the target has runs or is in use, or a form is not the installed Dagster's;
    MoveFailed when it could not be finished. After both the target has no row of it.
    """
    before = source.state()
    source.expect_known_form()
    engine = db.create_engine(url, poolclass=db.NullPool)
    with _failures(url):
        _prepare(engine, url)
        with engine.begin() as target:
            replaced = _take(target)
            _expect_same_migrations(source, target)
            copied = _copy(source, target, progress)
            _continue_ids(target)
            if source.state() != before:
                raise MoveFailed(WHAT, "the source was written to meanwhile", "end what uses it, and move again")
    return Moved(copied, replaced, kept_cursors(source))


@contextmanager
def _failures(url: db.URL) -> Iterator[None]:
    """What the database says, as an error of ours; without the statement, in which rows of the history stand."""
    try:
        yield
    except db.exc.DBAPIError as error:
        place = f"{url.query.get('host')}:{url.query.get('port')}/{url.database}"
        raise MoveFailed(f"{WHAT} to {place}", str(error.orig).strip(), "mend that, and move again") from None


def _prepare(engine: db.Engine, url: db.URL) -> None:
    """Dagster's tables in the target. Raises MoveRefused when it is not empty, in use or of another form."""
    with engine.connect() as connection:
        _expect_alone(connection)
        present = set(db.inspect(connection).get_table_names())
        if foreign := sorted(present - {table.name for table in tables()} - {MIGRATIONS, "alembic_version"}):
            raise MoveRefused(
                WHAT,
                f"the target has tables that are not Dagster's: {', '.join(foreign)}",
                "give Dagster a database of its own",
            )
        if RunsTable.name in present and EVENTS.name in present:
            _expect_no_runs(connection)
    DagsterPostgresStorage(url.render_as_string(hide_password=False))
    with engine.connect() as connection:
        expect_revision(connection, "the target", "dagster instance migrate, with a dagster.yaml that names it")


def _expect_alone(connection: db.Connection) -> None:
    """Raises MoveRefused while other sessions use the database; those that are just ending are waited for."""
    query = db.text(
        "SELECT count(*), min(concat_ws(' ', nullif(application_name, ''), host(client_addr))) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        # Of sessions of other roles only a superuser is told the type.
        " AND coalesce(backend_type, 'client backend') = 'client backend'"
    )
    deadline = time.monotonic() + _QUIET_SECONDS
    while True:
        count, who = connection.execute(query).one()
        connection.rollback()  # within a transaction the view never changes
        if not count:
            return
        if time.monotonic() > deadline:
            raise MoveRefused(
                WHAT,
                f"other sessions use the target: {count}, one of them {who or 'on its own machine'}",
                "end webserver, daemon and code server that work with it; the database alone must run",
            )
        time.sleep(0.2)


def _expect_no_runs(target: db.Connection) -> None:
    """Raises MoveRefused when there is something that nobody may lose: more than the daemon writes when idle."""
    idle = db.and_(EVENTS.c.run_id == RUNLESS_RUN_ID, EVENTS.c.dagster_event_type == _IDLE_EVENT)
    runs = count_of(target, RunsTable)
    events = count_of(target, EVENTS) - len(target.execute(db.select(EVENTS.c.id).where(idle)).all())
    if runs or events:
        raise MoveRefused(
            WHAT,
            f"the target has a history: {runs} runs, {events} events",
            "two histories cannot be joined: name an empty database",
        )


def _take(target: db.Connection) -> dict[str, int]:
    """Keep others from writing until the end, and empty what a start of Dagster fills by itself; the rows by table."""
    if not target.execute(db.text(f"SELECT pg_try_advisory_xact_lock({_LOCK})")).scalar():
        raise MoveRefused(WHAT, "another move, or a daemon, works on this database", "let it end")
    names = [table.name for table in tables()]
    target.execute(db.text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
    target.execute(db.text(f"LOCK TABLE {', '.join(names)} IN EXCLUSIVE MODE"))
    _expect_no_runs(target)
    emptied = {table.name: target.execute(table.delete()).rowcount for table in reversed(tables())}
    return {name: count for name, count in emptied.items() if count}


def _expect_same_migrations(source: SqliteStorage, target: db.Connection) -> None:
    """Raises MoveRefused when a change of data that the target counts as done was never done in the source."""
    query = db.text(f"SELECT name FROM {MIGRATIONS} WHERE migration_completed IS NOT NULL")
    done: set[str] = set()
    for path in (source.runs, source.schedules, source.index):
        with reading(path) as connection:
            done |= set(connection.execute(query).scalars())
    if missing := sorted(set(target.execute(query).scalars()) - done):
        raise MoveRefused(
            WHAT,
            f"the source was never brought up to date: {', '.join(missing)}",
            f"DAGSTER_HOME={source.folder} dagster instance migrate, then dagster instance reindex",
        )


def _copy(source: SqliteStorage, target: db.Connection, progress: Progress) -> dict[str, int]:
    """Rows by table. Raises MoveFailed unless the source, what was read and the target have the same number."""
    copied = {}
    for part in history(source):
        name, done = part.table.name, 0
        progress(name, 0, part.about)
        while batch := list(islice(part.rows, _BATCH)):
            target.execute(part.table.insert(), batch)
            done += len(batch)
            progress(name, done, part.about)
        counts = {"in the source": part.exactly(), "read": done, "in the target": count_of(target, part.table)}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{count} {where}" for where, count in counts.items())
            raise MoveFailed(WHAT, f"table {name} has {said}", "report it; nothing was kept")
        copied[name] = done
    return copied


def _continue_ids(target: db.Connection) -> None:
    """New rows get ids after those that were copied."""
    for table in tables():
        target.execute(
            db.text(
                f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), max(id)) FROM {table.name}"
                " HAVING max(id) IS NOT NULL"
            )
        )
