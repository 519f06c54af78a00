"""Taking a backup: one snapshot, its evidence and its dump, streamed to every target; the manifest last."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

from homelab_pipelines.backup import evidence
from homelab_pipelines.backup.capture_run import DUMP_MAGIC, CaptureOptions, CaptureResult, Progress, Run
from homelab_pipelines.backup.connection import APPLICATION, Connection, Direct
from homelab_pipelines.backup.database_settings import trailer, values_to_hide, without_values
from homelab_pipelines.backup.errors import BackupError, CaptureFailed, SourceUnavailable
from homelab_pipelines.backup.fan_out import Target
from homelab_pipelines.backup.layout import Source, new_backup_id
from homelab_pipelines.backup.manifest import Evidence, Manifest, NotCarried
from homelab_pipelines.backup.processes import running
from homelab_pipelines.backup.restore_commands import restore_commands
from homelab_pipelines.backup.server import ServerFacts, server_facts
from homelab_pipelines.backup.session import Session, connect
from homelab_pipelines.backup.versions import program_versions

__all__ = ["CaptureOptions", "CaptureResult", "capture_database", "capture_globals"]

# One capture of a database at a time, whichever machine asks: an advisory lock held by the snapshot's session.
_NOTICE_SECONDS = 1.0  # a session whose server has gone knows within a moment
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('homelab_pipelines.capture', 0)) AS taken"


def capture_database(
    connection: Connection,
    database: str,
    targets: Sequence[Target],
    options: CaptureOptions,
    progress: Progress | None = None,
) -> CaptureResult:
    """Back up one database, with the server's globals, to every target from one dump.

    Must be called from a thread that lives until it returns: pg_dump is ended with the thread that started it. Raises a
    BackupError when no target holds a complete backup; then none is left anywhere.
    """
    report = progress or (lambda step, done, expected: None)
    started = time.monotonic()
    source = Source(connection.name, database)
    with ExitStack() as undone:
        with _snapshot(connection, database, options) as (session, facts, snapshot, taken_at):
            size = int(session.rows("SELECT pg_database_size(current_database()) AS bytes")[0]["bytes"])
            held, not_carried = evidence.relations(session)
            evidence.lock(session, held)
            before = evidence.sequence_values(session)
            run = undone.enter_context(Run(source, new_backup_id(taken_at), targets, options, report))
            found = _dump(run, connection, database, session, facts, snapshot, held, size)
            sequences = evidence.sequences(before, evidence.sequence_values(session))
            properties = found.database
            hidden = values_to_hide(properties) if properties is not None else []
            roles, without = run.globals(connection, database, facts, found.role_passwords, trailer(hidden))
        shown = without_values(properties) if properties is not None else None
        found = found.model_copy(update={"database": shown, "sequences": sequences, "roles": roles})
        manifest = _manifest(run, connection, facts, taken_at, started, found, [*not_carried, *without])
        return run.finish(manifest.model_copy(update={"server_bytes": size}))


def capture_globals(
    connection: Connection, targets: Sequence[Target], options: CaptureOptions, progress: Progress | None = None
) -> CaptureResult:
    """Back up a server's roles, memberships, role settings and tablespaces. Raises as `capture_database`."""
    report = progress or (lambda step, done, expected: None)
    started = time.monotonic()
    with ExitStack() as undone:
        with _snapshot(connection, None, options) as (session, facts, _, taken_at):
            source = Source(connection.name, None)
            run = undone.enter_context(Run(source, new_backup_id(taken_at), targets, options, report))
            readable = evidence.can_read_passwords(session)
            roles, not_carried = run.globals(connection, None, facts, readable)
        found = Evidence(form=evidence.FORM, roles=roles, role_passwords=readable)
        return run.finish(_manifest(run, connection, facts, taken_at, started, found, not_carried))


def _dump(
    run: Run,
    connection: Connection,
    database: str,
    session: Session,
    facts: ServerFacts,
    snapshot: str,
    held: list[evidence.Relation],
    size: int,
) -> Evidence:
    """Stream the dump of a snapshot, and record that snapshot's evidence beside it."""
    options = run.options
    # Not what a setting of the role, or the environment of a container, would have it be.
    encoding = session.rows("SELECT current_setting('server_encoding') AS encoding")[0]["encoding"]
    command = connection.command(
        "pg_dump",
        f"--encoding={encoding}",
        "--format=custom",
        "--compress=0",
        "--no-password",
        f"--snapshot={snapshot}",
        f"--lock-wait-timeout={int(options.lock_wait.total_seconds() * 1000)}",
        "--dbname",
        connection.conninfo(database),
        server_major=facts.major,
    )
    with _beside(session, partial(_record, session, facts, held, options, run.report)) as recorded:
        with _noticed(recorded, session), running(command) as process:
            run.store("dump", "dump.pgc", process, DUMP_MAGIC, size, recorded)
        return recorded.result()


@contextmanager
def _beside(session: Session, record: Callable[[], Evidence]) -> Iterator[Future[Evidence]]:
    """Record the evidence in a thread of its own; when the block fails, no query of it is waited for."""
    with ThreadPoolExecutor(1, "evidence") as pool:
        recorded = pool.submit(record)
        try:
            yield recorded
        except BaseException:
            _cut_short(recorded, session)
            raise


def _cut_short(recorded: Future[Evidence], session: Session) -> None:
    while not recorded.done():
        session.cancel()  # again and again: one that comes between two queries ends neither
        wait([recorded], timeout=0.2)


def _manifest(
    run: Run,
    connection: Connection,
    facts: ServerFacts,
    taken_at: datetime,
    started: float,
    found: Evidence,
    not_carried: list[NotCarried],
) -> Manifest:
    return Manifest(
        source=run.source.id,
        id=run.id,
        kind="postgres_globals" if run.source.database is None else "postgres_database",
        taken_at=taken_at,
        finished_at=datetime.now(UTC),
        duration=timedelta(seconds=time.monotonic() - started),
        server_version=facts.version,
        server_major=facts.major,
        server_image=_image(connection),
        programs=program_versions(connection, facts.major),
        objects=run.objects,
        compression=f"zstd {run.options.encoding.zstd_level}",
        recipients=list(run.options.encoding.recipients),
        evidence=found,
        not_carried=not_carried,
        restore_commands=restore_commands(run.source.database, run.objects, found.database),
    )


@contextmanager
def _snapshot(
    connection: Connection, database: str | None, options: CaptureOptions
) -> Iterator[tuple[Session, ServerFacts, str, datetime]]:
    """A session inside a read-only transaction whose snapshot is exported, and no other capture beside it."""
    with connect(connection, database) as session:
        facts = server_facts(session)
        if not session.rows(_LOCK)[0]["taken"]:
            raise SourceUnavailable(
                f"backing up {database or 'the globals'} on {connection}",
                "another backup of it is running",
                "wait for it to end; homelab backups shows when it did",
            )
        _end_orphans(session)
        if facts.number >= 140000:
            # When this process is killed, the server notices within seconds and ends the query, its locks with it.
            session.execute("SET client_connection_check_interval = '5s'")
        session.execute(f"SET lock_timeout = {int(options.lock_wait.total_seconds() * 1000)}")
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = session.rows("SELECT pg_export_snapshot() AS snapshot, now()::text AS taken_at")[0]
        taken_at = datetime.fromisoformat(row["taken_at"].replace(" ", "T")).astimezone(UTC)
        yield session, facts, row["snapshot"], taken_at
        with contextlib.suppress(BackupError):  # read-only: nothing is lost when the server left meanwhile
            session.execute("ROLLBACK")


def _end_orphans(session: Session) -> None:
    """End what a killed worker left running inside the server: we hold the lock, so no other capture is under way."""
    session.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname = current_database()"
        f" AND application_name = '{APPLICATION}' AND usename = current_user AND pid <> pg_backend_pid()"
        " AND query LIKE 'COPY %TO stdout%'"
    )


@contextmanager
def _noticed(recorded: Future[Evidence], session: Session) -> Iterator[None]:
    """When the dump fails because the server went, say so: its own words for that are many, a session's end is one."""
    try:
        yield
    except CaptureFailed as failed:
        wait([recorded], timeout=_NOTICE_SECONDS)
        error = recorded.exception() if recorded.done() else None
        _cut_short(recorded, session)
        if error is None:
            try:
                session.rows("SELECT 1 AS one")
            except BackupError as found:
                error = found
        if isinstance(error, BackupError) and error.retryable:
            raise SourceUnavailable(failed.what, f"{failed.why}; {error.why}", error.next_step) from None
        raise


def _record(
    session: Session, facts: ServerFacts, held: list[evidence.Relation], options: CaptureOptions, report: Progress
) -> Evidence:
    """All evidence but the sequences' values and the roles, in the snapshot of `session`."""
    readable = evidence.can_read_passwords(session)
    objects = evidence.schema_objects(session, facts.number)
    found_tables = evidence.tables(session, held, options.hash_limit, lambda name: report(f"recording {name}", 0, 0))
    return Evidence(
        form=evidence.FORM,
        database=evidence.database_properties(session, facts.number),
        tables=found_tables,
        large_objects=evidence.large_objects(session, options.hash_limit),
        extensions=evidence.extensions(session),
        objects=objects,
        role_passwords=readable,
    )


def _image(connection: Connection) -> str | None:
    """The image of the container or pod that the server runs in, for a scratch server of the same kind."""
    if isinstance(connection.place, Direct):
        return None
    from homelab_pipelines.backup.containers import image_of  # lazy: only a container needs it

    return image_of(connection.place)
