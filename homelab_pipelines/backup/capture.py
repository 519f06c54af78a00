"""Taking a backup: one snapshot, its evidence and its dump, streamed to every target; the manifest last."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from homelab_pipelines.backup import evidence
from homelab_pipelines.backup.connection import APPLICATION, Connection, InContainer
from homelab_pipelines.backup.errors import BackupError, CaptureFailed, SourceRefused, SourceUnavailable
from homelab_pipelines.backup.layout import MANIFEST, Source, backup_folder, new_backup_id
from homelab_pipelines.backup.manifest import Evidence, Manifest, NotCarried, StoredObject
from homelab_pipelines.backup.pipeline import Encoding, FanOut, Target, Written, copy_object, encode
from homelab_pipelines.backup.processes import Running, describe_exit, running
from homelab_pipelines.backup.prune import delete_backup
from homelab_pipelines.backup.restore_commands import restore_commands
from homelab_pipelines.backup.server import ServerFacts, server_facts
from homelab_pipelines.backup.session import Session, connect
from homelab_pipelines.backup.stores.base import put
from homelab_pipelines.backup.versions import program_versions

_DUMP_MAGIC = b"PGDMP"  # the first bytes of a custom-format archive (pg_backup_archiver.h: K_VERS)
_GLOBALS_MAGIC = b"--"
_ROLE_ATTEMPTS = 3
# One capture of a database at a time, whichever machine asks: an advisory lock held by the snapshot's session.
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('homelab_pipelines.capture', 0)) AS taken"

Progress = Callable[[str, int, int], None]
"""Told the step, and for a stream the content bytes so far and those expected (0: not known)."""


@dataclass(frozen=True)
class CaptureOptions:
    """`hash_limit`: tables larger than this many bytes are counted but not hashed; 0 hashes none."""

    encoding: Encoding = field(default_factory=Encoding)
    hash_limit: int = 2 << 30
    lock_wait: timedelta = timedelta(seconds=60)


@dataclass(frozen=True)
class CaptureResult:
    """`written`: where each target that holds the backup keeps it. `missed`: why the others do not."""

    manifest: Manifest
    written: dict[str, str]
    missed: dict[str, str]
    filled: list[str] = field(default_factory=list)


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
    with _undone_on_failure() as begun:
        return _capture_database(connection, database, targets, options, progress, begun)


def _capture_database(
    connection: Connection,
    database: str,
    targets: Sequence[Target],
    options: CaptureOptions,
    progress: Progress | None,
    begun: list[_Run],
) -> CaptureResult:
    report = progress or (lambda step, done, expected: None)
    started = time.monotonic()
    source = Source(connection.name, database)
    with _snapshot(connection, database, options) as (session, facts, snapshot, taken_at):
        size = int(session.rows("SELECT pg_database_size(current_database()) AS bytes")[0]["bytes"])
        held, not_carried = evidence.relations(session)
        evidence.lock(session, held)
        sequences_before = evidence.sequence_values(session)
        run = _Run(source, new_backup_id(taken_at), targets, options, report)
        begun.append(run)
        with run.withdrawn_on_failure():
            with ThreadPoolExecutor(1, "evidence") as pool:
                recorded = pool.submit(_record, session, facts, held, options, report)
                dump = connection.command(
                    "pg_dump",
                    "--format=custom",
                    "--compress=0",
                    "--no-password",
                    f"--snapshot={snapshot}",
                    f"--lock-wait-timeout={int(options.lock_wait.total_seconds() * 1000)}",
                    "--dbname",
                    connection.conninfo(database),
                    server_major=facts.major,
                )
                with _noticed(recorded, connection, database), running(dump) as process:
                    run.store("dump", "dump.pgc", process, _DUMP_MAGIC, size, before_commit=recorded.result)
                found = recorded.result()
            sequences = evidence.sequences(sequences_before, evidence.sequence_values(session))
            roles, without = run.globals(connection, database, facts, found.role_passwords)
            found = found.model_copy(update={"sequences": sequences, "roles": roles})
            not_carried += without
    return run.finish(
        Manifest(
            source=source.id,
            id=run.id,
            kind="postgres_database",
            taken_at=taken_at,
            finished_at=datetime.now(UTC),
            duration=timedelta(seconds=time.monotonic() - started),
            server_version=facts.version,
            server_major=facts.major,
            server_bytes=size,
            server_image=_image(connection),
            programs=program_versions(connection, facts.major),
            objects=run.objects,
            compression=f"zstd {options.encoding.zstd_level}",
            recipients=list(options.encoding.recipients),
            evidence=found,
            not_carried=not_carried,
            restore_commands=restore_commands(database, run.objects, found.database),
        )
    )


def capture_globals(
    connection: Connection, targets: Sequence[Target], options: CaptureOptions, progress: Progress | None = None
) -> CaptureResult:
    """Back up a server's roles, memberships, role settings and tablespaces. Raises as `capture_database`."""
    with _undone_on_failure() as begun:
        return _capture_globals(connection, targets, options, progress, begun)


def _capture_globals(
    connection: Connection,
    targets: Sequence[Target],
    options: CaptureOptions,
    progress: Progress | None,
    begun: list[_Run],
) -> CaptureResult:
    report = progress or (lambda step, done, expected: None)
    started = time.monotonic()
    source = Source(connection.name, None)
    with _snapshot(connection, None, options) as (session, facts, _, taken_at):
        run = _Run(source, new_backup_id(taken_at), targets, options, report)
        begun.append(run)
        readable = evidence.can_read_passwords(session)
        with run.withdrawn_on_failure():
            roles, not_carried = run.globals(connection, None, facts, readable)
        found = Evidence(form=evidence.FORM, roles=roles, role_passwords=readable)
    return run.finish(
        Manifest(
            source=source.id,
            id=run.id,
            kind="postgres_globals",
            taken_at=taken_at,
            finished_at=datetime.now(UTC),
            duration=timedelta(seconds=time.monotonic() - started),
            server_version=facts.version,
            server_major=facts.major,
            server_image=_image(connection),
            programs=program_versions(connection, facts.major),
            objects=run.objects,
            compression=f"zstd {options.encoding.zstd_level}",
            recipients=list(options.encoding.recipients),
            evidence=found,
            not_carried=not_carried,
            restore_commands=restore_commands(None, run.objects, None),
        )
    )


class _Run:
    """The objects of one backup on their way to the targets that are still good."""

    def __init__(
        self, source: Source, backup_id: str, targets: Sequence[Target], options: CaptureOptions, report: Progress
    ) -> None:
        self.id = backup_id
        self.objects: list[StoredObject] = []
        self.warned: list[NotCarried] = []
        self._source = source
        self._folder = backup_folder(source.id, backup_id)
        self._targets = list(targets)
        self._good = list(targets)
        self._missed: dict[str, str] = {}
        self._holding: set[str] = set()
        self._written: dict[str, str] = {}
        self._options = options
        self._report = report

    @contextmanager
    def withdrawn_on_failure(self) -> Iterator[None]:
        """When the backup cannot be completed, remove its finished objects: night after night they would fill a disk.

        What cannot be removed now is swept later.
        """
        try:
            yield
        except BaseException:
            for target in self._good:
                for stored in self.objects:
                    with contextlib.suppress(BackupError):
                        target.store.delete(f"{self._folder}/{stored.name}")
            raise

    def store(
        self,
        role: str,
        name: str,
        process: Running,
        magic: bytes,
        expected: int,
        before_commit: Callable[[], object] = lambda: None,
    ) -> None:
        """Stream what a program writes to every good target; committed only after the program ended well."""
        name += self._options.encoding.suffix
        fan_out = FanOut(f"{self._folder}/{name}", self._good, expected)
        content = _Checked(process, magic)
        try:
            written: Written = encode(
                content,
                self._options.encoding,
                fan_out.write,
                lambda done, _: self._report(f"dumping {self._source.id}" if role == "dump" else role, done, expected),
            )
            if role == "dump":
                warnings = content.check_ended_well(f"dumping {self._source.id}", "pg_dump")
            else:
                warnings = content.check_ended_well(f"dumping the roles of {self._source.id}", "pg_dumpall")
            before_commit()
            # Before the commit, for an interrupt in it leaves open who holds the object.
            self._holding |= {target.name for target in self._good}
            self._good = fan_out.commit()
        finally:
            self._missed.update(fan_out.missed)
            fan_out.abort()
        self.warned += warnings
        self.objects.append(
            StoredObject.model_validate(
                {
                    "name": name,
                    "role": role,
                    "bytes": written.bytes,
                    "sha256": written.sha256,
                    "content_bytes": written.content_bytes,
                }
            )
        )

    def globals(
        self, connection: Connection, database: str | None, facts: ServerFacts, readable: bool
    ) -> tuple[dict[str, str], list[NotCarried]]:
        """Store the server's globals; the evidence of its roles, and what of them this account may not read.

        Roles stand outside every snapshot: they are looked at before and after, and dumped again when they changed.
        """
        command = connection.command(
            "pg_dumpall",
            "--globals-only",
            "--no-password",
            *(() if readable else ("--no-role-passwords",)),
            "--dbname",
            connection.conninfo(),
            server_major=facts.major,
        )
        with connect(connection, database) as session:
            for attempt in range(1, _ROLE_ATTEMPTS + 1):
                roles = evidence.roles(session, readable)
                try:
                    with running(command) as process:
                        self.store(
                            "globals",
                            "globals.sql",
                            process,
                            _GLOBALS_MAGIC,
                            0,
                            before_commit=partial(_expect_roles, session, readable, roles),
                        )
                    break
                except _RolesChanged:
                    if attempt == _ROLE_ATTEMPTS:
                        raise
        if readable:
            return roles, self.warned
        why = f"the account {connection.user!r} may not read pg_authid; give a superuser to carry them"
        return roles, [*self.warned, NotCarried(what="passwords of roles", why=why)]

    def finish(self, manifest: Manifest) -> CaptureResult:
        """Write the manifest, which makes it a backup, to every good target; then fill the others from a good one."""
        data = manifest.to_bytes()
        written = self._written
        holder: Target | None = None
        for target in self._good:
            try:
                put(target.store, f"{self._folder}/{MANIFEST}", data)
            except BackupError as error:
                self._missed[target.name] = f"{error.what}: {error.why}"
                continue
            written[target.name] = target.store.location(self._folder)
            holder = holder or target
        if holder is None:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._missed.items())
            raise CaptureFailed(
                f"committing {self._folder}", f"no target took the manifest: {reasons}", "homelab check"
            )
        filled = []
        for target in self._targets:
            if target.name in written:
                continue
            self._report(f"filling {target.name}", 0, manifest.bytes)
            try:
                for stored in manifest.objects:
                    copy_object(
                        holder.store, target.store, f"{self._folder}/{stored.name}", stored.bytes, stored.sha256
                    )
                put(target.store, f"{self._folder}/{MANIFEST}", data)
            except BackupError as error:
                self._missed[target.name] += f"; filling it afterwards failed: {error.what}: {error.why}"
            else:
                written[target.name] = target.store.location(self._folder)
                filled.append(target.name)
        missed = {name: reason for name, reason in self._missed.items() if name not in written}
        return CaptureResult(manifest, written, missed, filled)

    def discard(self) -> None:
        """Remove what stands on the targets that did not become a backup there; what cannot go now is swept later."""
        for target in self._targets:
            if target.name in self._holding and target.name not in self._written:
                with contextlib.suppress(BackupError):
                    delete_backup(target.store, self._folder)


class _RolesChanged(SourceUnavailable):
    """The server's roles are not those that a dump of them began with."""


def _expect_roles(session: Session, readable: bool, roles: dict[str, str]) -> None:
    if evidence.roles(session, readable) != roles:
        raise _RolesChanged(
            "dumping the server's roles", "they change all the time", "homelab backup at a quieter hour"
        )


@contextmanager
def _undone_on_failure() -> Iterator[list[_Run]]:
    """What fails or is interrupted inside leaves no objects without a manifest: a dump may fill a target."""
    begun: list[_Run] = []
    try:
        yield begun
    except BaseException:
        for run in begun:
            run.discard()
        raise


class _Checked:
    """A program's output: its first bytes must be those of a dump, and it must have ended with status 0."""

    def __init__(self, process: Running, magic: bytes) -> None:
        self._process = process
        self._magic = magic
        self._first = b""

    def read(self, size: int) -> bytes:
        chunk = self._process.output.read(size)
        if len(self._first) < len(self._magic):
            self._first += chunk[: len(self._magic)]
        return chunk

    def check_ended_well(self, what: str, program: str) -> list[NotCarried]:
        """What the program warned of. Raises a BackupError when it failed, or wrote nothing that is a dump."""
        status, messages = self._process.finish()
        if status != 0:
            why = f"{program}: {describe_exit(status, messages)}"
            gone = (
                "server closed the connection",
                "terminating connection",
                "could not connect",
                "Connection refused",
                "the database system is",  # starting up, shutting down, in recovery mode
                'snapshot "',  # "…" does not exist: the session that exported it was ended
                "invalid snapshot identifier",  # the same before PostgreSQL 17
            )
            if status < 0 or any(sign in messages for sign in gone) or "lock timeout" in messages:
                raise SourceUnavailable(what, why, "homelab backup once the server is well")
            if "permission denied" in messages or "row-level security" in messages:
                next_step = "give this user the privilege (pg_read_all_data, BYPASSRLS), or name a superuser"
                raise SourceRefused(what, why, next_step)
            raise CaptureFailed(what, why, "mend what the message names, then homelab backup")
        if not self._first.startswith(self._magic):
            raise CaptureFailed(
                what, "the program ended with status 0 but wrote no dump", "check the client programs: homelab check"
            )
        warnings = [line.partition("warning: ")[2] for line in messages.splitlines() if "warning: " in line]
        return [NotCarried(what=f"what {program} warned of", why=warning) for warning in warnings]


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
def _noticed(recorded: Future[Evidence], connection: Connection, database: str) -> Iterator[None]:
    """When the dump fails because the server went, say what the evidence's session was told as well."""
    try:
        yield
    except CaptureFailed:
        error = recorded.exception() if recorded.done() else None
        if isinstance(error, BackupError) and error.retryable:
            raise error from None
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
    """The image of the container that the server runs in, for a scratch server of the same kind."""
    if not isinstance(connection.place, InContainer):
        return None
    from homelab_pipelines.backup.containers import image_of  # lazy: only a container needs it

    return image_of(connection.place)
