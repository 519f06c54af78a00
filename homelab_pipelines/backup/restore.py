"""Bringing a database back from a store: through a new database and a rename, so that a failure leaves the old one."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from homelab_pipelines.backup.connection import Connection
from homelab_pipelines.backup.database_settings import hidden_values
from homelab_pipelines.backup.database_sql import create_statement, identifier, literal, property_statements
from homelab_pipelines.backup.errors import (
    BackupDamaged,
    BackupError,
    RestoreFailed,
    StoreUnavailable,
    VerificationImpossible,
)
from homelab_pipelines.backup.layout import PROOF_PREFIX
from homelab_pipelines.backup.manifest import BackupRecord, DatabaseProperties, Manifest
from homelab_pipelines.backup.pg_restore import run_pg_restore
from homelab_pipelines.backup.pipeline import free_bytes
from homelab_pipelines.backup.restored_copy import RestoreOptions, compare_restored
from homelab_pipelines.backup.restored_roles import restore_globals, roles_dropped_on_failure
from homelab_pipelines.backup.scratch_folder import scratch_folder
from homelab_pipelines.backup.server import server_facts
from homelab_pipelines.backup.session import Session, connect
from homelab_pipelines.backup.stores.base import BackupStore
from homelab_pipelines.backup.unpack import unpack

_RENAME_ATTEMPTS = 5
_TEMPORARY = "homelab_restore_"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Spooled:
    """A backup's content on this machine, its digests seen to be right."""

    dump: Path | None
    globals_sql: str | None


@dataclass(frozen=True)
class RestoreResult:
    """`seconds`: from the first byte read to the last index built. `differences`: empty when the copy is equal.

    `replaced`: the name that the former database has now.
    """

    database: str
    seconds: float
    compare_seconds: float
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    replaced: str | None = None


@contextmanager
def spooled(
    store: BackupStore, manifest: Manifest, identities: Sequence[Any], folder: Path | None, report: Progress
) -> Iterator[Spooled]:
    """Unpack a backup into a private temporary folder, removed at the end.

    A parallel pg_restore needs a file it can seek in; and nothing is restored before the whole object was read and its
    digest found right. Raises BackupDamaged, KeyMissing or a store's error, StoreUnavailable when there is no room.
    """
    # Not a plain temporary folder: a killed process would leave the content there, readable without any key.
    with scratch_folder(folder) as private:
        stored_globals = manifest.object("globals")
        sql: str | None = None
        if stored_globals is not None:
            collected = bytearray()
            unpack(store, manifest, stored_globals, identities, _Appending(collected))
            sql = collected.decode(errors="surrogateescape")  # a session gives such bytes back as they were
        stored_dump = manifest.object("dump")
        if stored_dump is None:
            yield Spooled(None, sql)
            return
        room = free_bytes(str(private))
        if room < stored_dump.content_bytes:
            raise StoreUnavailable(
                f"unpacking {manifest.id} into {private}",
                f"it takes {stored_dump.content_bytes} bytes, {room} are free",
                "free some, or name another folder: --scratch",
            )
        path = private / "dump.pgc"
        with path.open("wb") as file:
            unpack(store, manifest, stored_dump, identities, _Reporting(file, stored_dump.content_bytes, report))
        yield Spooled(path, sql)


def restore_database(
    connection: Connection,
    name: str,
    store: BackupStore,
    record: BackupRecord,
    identities: Sequence[Any],
    options: RestoreOptions,
    progress: Progress | None = None,
) -> RestoreResult:
    """Restore a backup as database `name` of a server.

    Everything is restored under a temporary name and renamed at the end; when anything fails, the temporary database
    and the roles made for it are dropped and an existing one of that name is as it was. Raises a BackupError, which
    names the roles that could not be dropped.
    """
    report = progress or (lambda step, done, expected: None)
    manifest = record.manifest
    if record.damage:
        raise BackupDamaged(f"restoring {record.location}", record.damage, _next_step(record))
    if manifest.kind != "postgres_database":
        raise RestoreFailed(f"restoring {manifest.source}", "it holds roles only, no database", "homelab backups")
    with connect(connection) as session:
        facts = server_facts(session)
        if facts.major < manifest.server_major:
            raise RestoreFailed(
                f"restoring {manifest.source} into {connection}",
                f"it comes from PostgreSQL {manifest.server_version}, this server is the older {facts.version}",
                f"restore into PostgreSQL {manifest.server_major} or newer",
            )
        if not options.replace and _exists(session, name):
            raise RestoreFailed(
                f"restoring {manifest.source} into {connection}",
                f"a database {name!r} is there already",
                "choose another name, or add --replace: the one there is renamed aside, not dropped",
            )
    started = time.monotonic()
    with (
        spooled(store, manifest, identities, options.folder, report) as content,
        roles_dropped_on_failure(connection) as made,
        _temporary_database(connection) as temporary,
    ):
        notes: list[str] = []
        if options.roles and content.globals_sql is not None:
            more, roles = restore_globals(connection, content.globals_sql, options.scratch)
            notes += more
            made += roles
        _restore_as(connection, temporary, content, manifest, options, report)
        seconds = time.monotonic() - started
        report("comparing", 0, 0)
        same_major = facts.major == manifest.server_major
        differences: list[str] = []
        if options.check:
            hidden = hidden_values(content.globals_sql)
            differences, more = compare_restored(connection, temporary, manifest, options, same_major, hidden)
            notes += more
        if differences and options.replace:
            raise RestoreFailed(
                f"restoring {manifest.source} {manifest.id} over {name!r}",
                "the restored copy differs from the backup's evidence: " + "; ".join(differences[:5]),
                "restore it under another name and look, or take another backup: homelab backups",
            )
        compared = time.monotonic() - started - seconds
        replaced = _rename(connection, temporary, name, options.replace)
    return RestoreResult(name, seconds, compared, differences, notes, replaced)


@contextmanager
def _temporary_database(connection: Connection) -> Iterator[str]:
    """The name of a database to be made and then renamed; it is dropped when the block fails.

    As long as its restore lives, a session has the same name as its application_name. Those that killed restores left
    have none, and are dropped first.
    """
    name = f"{_TEMPORARY}{secrets.token_hex(6)}"
    with connect(connection) as holder:
        holder.execute(f"SET application_name = {literal(name)}")
        for row in holder.rows(
            f"SELECT datname FROM pg_catalog.pg_database WHERE datname ~ '^{_TEMPORARY}[0-9a-f]{{12}}$' AND NOT EXISTS"
            " (SELECT FROM pg_catalog.pg_stat_activity WHERE application_name = datname::text)"
        ):
            with contextlib.suppress(BackupError):  # another account's: it is not ours to drop
                holder.execute(f"DROP DATABASE IF EXISTS {row['datname']} WITH (FORCE)")
        try:
            yield name
        except BaseException:
            with contextlib.suppress(BackupError), connect(connection) as session:
                session.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            raise


def create_database(session: Session, name: str, properties: DatabaseProperties, scratch: bool) -> None:
    """CREATE DATABASE with the source's encoding and locale; on a scratch server C where it lacks the locale.

    Raises RestoreFailed where the server lacks the locale, VerificationImpossible where a scratch server has no ICU.
    """
    try:
        session.execute(create_statement(name, properties, properties.collate, properties.ctype))
    except BackupError as error:
        if "locale" not in error.why and "ICU" not in error.why:
            raise
        wanted = properties.locale or properties.collate
        what = f"making a database with the source's locale {wanted} ({properties.provider})"
        if not scratch:
            next_step = "install that locale where the server runs (Debian: locale-gen), restart the server, try again"
            raise RestoreFailed(what, error.why, next_step) from error
        if "invalid LC_" not in error.why:
            next_step = "choose a scratch server that has it: set verify.image or verify.server in homelab.yaml"
            raise VerificationImpossible(what, error.why, next_step) from error
        session.execute(create_statement(name, properties, "C", "C"))


def _restore_as(
    connection: Connection, name: str, content: Spooled, manifest: Manifest, options: RestoreOptions, report: Progress
) -> None:
    properties = manifest.evidence.database
    if content.dump is None or properties is None:
        raise RestoreFailed(f"restoring {manifest.source}", "its manifest names no dump", "homelab backups")
    with connect(connection) as session:
        major = server_facts(session).major
        create_database(session, name, properties, options.scratch)
    report("restoring", 0, 0)
    run_pg_restore(
        connection,
        name,
        content.dump,
        manifest,
        major,
        jobs=options.jobs,
        owners=options.owners,
        scratch=options.scratch,
    )
    whole = properties.model_copy(update={"settings": [*properties.settings, *hidden_values(content.globals_sql)]})
    with connect(connection) as session:
        for statement in property_statements(name, whole, options.owners):
            session.execute(statement)


def _rename(connection: Connection, temporary: str, name: str, replace: bool) -> str | None:
    """Give the restored database its name; the one that had it is renamed aside, and its new name returned.

    Both names change in one transaction: whatever happens, one of the two databases has the name.
    """
    # The current database cannot be renamed; template1 is on every server.
    with connect(connection, "template1" if name == connection.maintenance_database else None) as session:
        if not _exists(session, name):
            session.execute(f"ALTER DATABASE {temporary} RENAME TO {identifier(name)}")
            return None
        if not replace:
            raise RestoreFailed(f"naming the restored database {name!r}", "one of that name came meanwhile", "")
    aside = f"{name.encode()[:40].decode(errors='ignore')}_before_{datetime.now(UTC):%Y%m%dt%H%M%S}"
    for attempt in range(_RENAME_ATTEMPTS):
        with connect(connection, "template1" if name == connection.maintenance_database else None) as session:
            session.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity"
                f" WHERE datname = {literal(name)} AND pid <> pg_backend_pid()"
            )
            try:
                session.execute(
                    f"BEGIN; ALTER DATABASE {identifier(name)} RENAME TO {identifier(aside)};"
                    f" ALTER DATABASE {temporary} RENAME TO {identifier(name)}; COMMIT"
                )
            except BackupError as error:
                # An application that connects again at once may come between; it is ended again.
                if "being accessed by other users" not in error.why or attempt + 1 == _RENAME_ATTEMPTS:
                    raise
            else:
                return aside
    return aside


def _next_step(record: BackupRecord) -> str:
    """A damaged proof says nothing of the data, but something damaged it: a person looks, and proves the data anew."""
    if record.damage is not None and record.damage.startswith(PROOF_PREFIX):
        return f"remove that proof from {record.location}, homelab verify, then restore; or restore another copy"
    return "restore another copy: homelab backups"


def _exists(session: Session, name: str) -> bool:
    return bool(session.rows(f"SELECT 1 AS one FROM pg_catalog.pg_database WHERE datname = {literal(name)}"))


class _Appending:
    def __init__(self, collected: bytearray) -> None:
        self._collected = collected

    def write(self, data: bytes, /) -> object:
        self._collected += data
        return len(data)


class _Reporting:
    def __init__(self, file: Any, expected: int, report: Progress) -> None:
        self._file = file
        self._expected = expected
        self._report = report
        self._done = 0

    def write(self, data: bytes, /) -> object:
        self._file.write(data)
        self._done += len(data)
        self._report("unpacking", self._done, self._expected)
        return len(data)
