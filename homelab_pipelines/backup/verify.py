"""Proving a backup: every copy is re-read, one is restored into a scratch server and compared with its evidence."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from homelab_pipelines.backup import evidence
from homelab_pipelines.backup.connection import Connection, Direct
from homelab_pipelines.backup.containers import scratch_container
from homelab_pipelines.backup.errors import (
    BackupDamaged,
    BackupError,
    CaptureFailed,
    KeyMissing,
    ProgramMissing,
    RestoreFailed,
    SourceRefused,
    StoreRefused,
    StoreUnavailable,
    VerificationImpossible,
)
from homelab_pipelines.backup.layout import Source, new_proof_name
from homelab_pipelines.backup.local_server import SCRATCH_SUPERUSER, scratch_server
from homelab_pipelines.backup.manifest import BackupRecord, Evidence, Manifest, Proof
from homelab_pipelines.backup.programs import server_for
from homelab_pipelines.backup.records import add_proof
from homelab_pipelines.backup.restore import restore_database, spooled
from homelab_pipelines.backup.restored_copy import RestoreOptions
from homelab_pipelines.backup.restored_roles import restore_globals
from homelab_pipelines.backup.session import connect
from homelab_pipelines.backup.stores.base import BackupStore
from homelab_pipelines.backup.unpack import check_object

Progress = Callable[[str, int, int], None]
_TEMPORARY = "homelab_verify_"


@dataclass(frozen=True)
class ScratchChoice:
    """Where a restore is tried. `auto`: local programs, else a container of the source's image, else `server`.

    `server`: a connection to a server that a scratch database may be made on. `parent`: the folder of local clusters.
    """

    method: Literal["auto", "local", "container", "server"] = "auto"
    image: str | None = None
    docker_host: str | None = None
    server: Connection | None = None
    parent: Path | None = None
    jobs: int = 2


@dataclass(frozen=True)
class Scratch:
    """A server to restore into; `shared` when others live on it, so that its roles are left alone.

    `instead_of` says why each better way was not possible.
    """

    connection: Connection
    label: str
    shared: bool = False
    instead_of: tuple[str, ...] = ()


@contextmanager
def scratch(manifest: Manifest, choice: ScratchChoice) -> Iterator[Scratch]:
    """A scratch server that fits a backup. Raises VerificationImpossible with every way that was tried, and why not."""
    tried: list[str] = []
    extensions = manifest.evidence.extensions
    if choice.method in ("auto", "local"):
        try:
            installation = server_for(manifest.server_major, extensions)
        except ProgramMissing as error:
            tried.append(f"local: {error.why} ({error.next_step})")
        else:
            with scratch_server(installation, choice.parent) as server:
                place = Direct(str(server.socket_dir), server.port, sslmode="disable")
                label = f"local PostgreSQL {installation.version}"
                yield Scratch(Connection("scratch", place, user=SCRATCH_SUPERUSER), label)
            return
    image = choice.image or manifest.server_image
    if choice.method in ("auto", "container"):
        if image is None:
            tried.append("container: no image is known; set verify.image of this server in homelab.yaml")
        else:
            with ExitStack() as stack:
                try:
                    connection = stack.enter_context(scratch_container(image, choice.docker_host))
                except VerificationImpossible as error:
                    tried.append(f"container: {error.what}: {error.why} ({error.next_step})")
                else:
                    yield Scratch(connection, f"container of {image}", instead_of=tuple(tried))
                    return
    if choice.method in ("auto", "server"):
        if choice.server is None:
            tried.append("server: none is named; set verify.server of this server in homelab.yaml")
        else:
            yield Scratch(choice.server, f"scratch database on {choice.server}", True, tuple(tried))
            return
    raise VerificationImpossible(
        f"finding a scratch server for {manifest.source} (PostgreSQL {manifest.server_version})",
        "; ".join(tried),
        "do one of these, then homelab verify",
    )


def verify_backup(
    copies: Mapping[str, tuple[BackupStore, BackupRecord]],
    identities: Sequence[Any],
    choice: ScratchChoice,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> list[Proof]:
    """Prove one backup on every target that holds it; each result is also written beside its manifest.

    `copies` has, by target, the store and the record of the same backup id. The first undamaged copy is restored and
    compared; the others are re-read and must have the same digests. Raises KeyMissing or VerificationImpossible when a
    restore cannot be tried at all: then nothing is recorded, for nothing is known. Raises a store's error when a target
    cannot be read or written; what was proven of the other targets is recorded all the same.
    """
    report = progress or (lambda step, done, expected: None)
    checked_at = _after_every_proof(now or datetime.now(UTC), [record for _, record in copies.values()])
    proofs: list[Proof] = []
    restored: Proof | None = None
    unreachable: list[StoreUnavailable | StoreRefused] = []
    for target, (store, record) in copies.items():
        report(f"reading the copy on {target}", 0, 0)
        try:
            if restored is None or not _same_objects(record, copies[restored.target][1]):
                proof = _restored(target, store, record, identities, choice, checked_at, report)
                restored = proof if proof.result != "damaged" else restored
                proofs.append(proof)
                continue
            proof = _reread(target, store, record, checked_at)
        except (StoreUnavailable, StoreRefused) as error:
            unreachable.append(error)
            continue
        if proof.result == "equal":
            proof = proof.model_copy(
                update={
                    "result": restored.result,
                    "differences": restored.differences,
                    "notes": [*restored.notes, f"the copy restored was the one on {restored.target}"],
                    "restore_seconds": restored.restore_seconds,
                    "scratch": restored.scratch,
                }
            )
        proofs.append(proof)
    for proof in proofs:
        try:
            add_proof(copies[proof.target][0], proof, new_proof_name(checked_at))
        except (StoreUnavailable, StoreRefused) as error:
            unreachable.append(error)
    if unreachable:
        raise unreachable[0]
    return proofs


def _after_every_proof(now: datetime, records: Sequence[BackupRecord]) -> datetime:
    """`now`, or just after the newest proof there is: one written while a clock was ahead must not outlive this one."""
    proven = [proof.checked_at for record in records for proof in record.proofs]
    return max([now, *(each + timedelta(microseconds=1) for each in proven)])


def _same_objects(one: BackupRecord, other: BackupRecord) -> bool:
    return one.manifest.objects == other.manifest.objects and one.manifest.evidence == other.manifest.evidence


def _reread(target: str, store: BackupStore, record: BackupRecord, checked_at: datetime) -> Proof:
    """Read all objects of one copy and compare their digests with its manifest."""
    result: Literal["equal", "damaged"] = "equal"
    differences: list[str] = []
    if record.damage:
        result, differences = "damaged", [record.damage]
    else:
        for stored in record.manifest.objects:
            try:
                check_object(store, record.manifest, stored)
            except BackupDamaged as error:
                result = "damaged"
                differences.append(f"{stored.name}: {error.why}")
    return Proof(
        source=record.manifest.source,
        id=record.manifest.id,
        target=target,
        checked_at=checked_at,
        result=result,
        method="same digest",
        differences=differences,
    )


def _restored(
    target: str,
    store: BackupStore,
    record: BackupRecord,
    identities: Sequence[Any],
    choice: ScratchChoice,
    checked_at: datetime,
    report: Progress,
) -> Proof:
    """Restore one copy, which reads all its objects and compares their digests on the way."""
    manifest = record.manifest
    outcome: dict[str, Any] = {}
    with scratch(manifest, choice) as server:
        outcome["scratch"] = server.label
        try:
            if manifest.kind == "postgres_globals":
                outcome |= _try_globals(server, store, manifest, identities, report)
            else:
                outcome |= _try_database(server, store, record, identities, choice, report)
        except (KeyMissing, StoreUnavailable, StoreRefused, VerificationImpossible):
            raise
        except BackupDamaged as error:
            outcome |= {"result": "damaged", "differences": [f"{error.what}: {error.why}"]}
        except (RestoreFailed, SourceRefused, CaptureFailed) as error:
            if reason := _fault_of_the_scratch_server(error.why, server):
                raise VerificationImpossible(f"verifying {manifest.source} {manifest.id}", *reason) from error
            outcome |= {"result": "failed", "differences": [f"{error.what}: {error.why}"]}
        except BackupError as error:
            why, next_step = f"{error.what}: {error.why}", error.next_step or "try again"
            raise VerificationImpossible(f"verifying {manifest.source} {manifest.id}", why, next_step) from error
    return Proof(
        source=manifest.source, id=manifest.id, target=target, checked_at=checked_at, method="restored", **outcome
    )


# What the programs say when it is the machine that fails them, or their build, and not the backup (the messages of
# PostgreSQL in English: every program runs with LC_ALL=C.UTF-8, and a scratch server with lc_messages C).
_FAULTS_OF_THE_MACHINE = (
    (r"ended by signal|server closed the connection|terminating connection|connection to server was lost"
     r"|the database system is|Connection refused|could not connect to server|could not fork",
     "look for what ended it (journalctl -k tells when memory ran out), then homelab verify"),
    (r"No space left on device|[Dd]isk quota exceeded|could not extend file|could not write to file",
     "free room for the restored copy, or name a larger folder: verify.scratch of this server in homelab.yaml"),
    (r"out of memory|out of shared memory|Cannot allocate memory",
     "give the scratch server more memory, or set verify.method of this server in homelab.yaml"),
    (r"is not supported (in|by) this (build|installation)|was not (built|compiled) with"
     r"|shared_preload_libraries|could not open extension control file|extension \S+ is not available"
     r"|could not access file|could not load library|has no installation script nor update path",
     "install server programs that have it, or set verify.image of this server in homelab.yaml"),
    # pg_cron serves one database of a server, that of cron.database_name; a restore is tried under another name.
    (r'can only create extension in database|unrecognized configuration parameter "cron\.',
     "nothing here can prove this database as long as pg_cron is in it: move it to another database of the server"),
)  # fmt: skip


def _fault_of_the_scratch_server(message: str, server: Scratch) -> tuple[str, str] | None:
    """Why a failed restore says nothing of the backup, and what to do; None when it does."""
    for signs, next_step in _FAULTS_OF_THE_MACHINE:
        if re.search(signs, message):
            return f"{message} (on {server.label}: it says nothing of the backup)", next_step
    if server.shared and re.search(r'role "?.*"? does not exist', message):
        why = f"{message} (a scratch database on a server that others use is restored without the backup's roles)"
        return why, "install server programs of this version, or set verify.image: a server of its own has all roles"
    if "unsupported version" in message and "in file header" in message:
        return (
            f"{message} (the pg_restore of {server.label} is older than the pg_dump that took this backup)",
            "choose a newer image of the same major version, or install its server programs here",
        )
    return None


def _try_database(
    server: Scratch,
    store: BackupStore,
    record: BackupRecord,
    identities: Sequence[Any],
    choice: ScratchChoice,
    report: Progress,
) -> dict[str, Any]:
    options = RestoreOptions(
        roles=not server.shared, owners=not server.shared, jobs=choice.jobs, scratch=True, folder=choice.parent
    )
    name = Source.parse(record.manifest.source).database or "restored"
    if server.shared or name in ("postgres", "template1"):
        name = f"{_TEMPORARY}{record.manifest.id.rpartition('-')[2]}"
    if server.shared:
        _drop_abandoned(server.connection)
    try:
        result = restore_database(server.connection, name, store, record, identities, options, report)
    finally:
        if server.shared:
            _drop(server.connection, name)
    return {
        "result": "different" if result.differences else "equal",
        "differences": result.differences,
        "notes": [*(f"not restored here: {why}" for why in server.instead_of), *result.notes],
        "restore_seconds": round(result.seconds, 3),
        "compare_seconds": round(result.compare_seconds, 3),
    }


def _drop_abandoned(connection: Connection) -> None:
    """Drop what killed verifications left. One that lives has compared its own by the time that it has this name."""
    with connect(connection) as session:
        for row in session.rows(
            f"SELECT datname FROM pg_catalog.pg_database WHERE datname ~ '^{_TEMPORARY}[0-9a-f]{{6}}$'"
        ):
            with suppress(BackupError):  # another account's: it is not ours to drop
                session.execute(f'DROP DATABASE IF EXISTS "{row["datname"]}" WITH (FORCE)')


def _drop(connection: Connection, name: str) -> None:
    with connect(connection) as session:
        session.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _try_globals(
    server: Scratch, store: BackupStore, manifest: Manifest, identities: Sequence[Any], report: Progress
) -> dict[str, Any]:
    if server.shared:
        raise VerificationImpossible(
            f"verifying {manifest.source}",
            "roles can only be restored into a server of their own, not into a scratch database",
            "install server programs of this version, or set verify.image",
        )
    expected, started = manifest.evidence, time.monotonic()
    with spooled(store, manifest, identities, None, report) as content:
        notes, _ = restore_globals(server.connection, content.globals_sql or "", scratch=True)
        seconds = time.monotonic() - started
    if expected.form != evidence.FORM:
        raise VerificationImpossible(
            f"verifying {manifest.source} {manifest.id}",
            f"its roles were recorded in form {expected.form}, this version of homelab_pipelines knows {evidence.FORM}",
            "homelab backup takes one that can be compared",
        )
    with connect(server.connection) as session:
        actual = Evidence(roles=evidence.roles(session, expected.role_passwords))
    differences = evidence.compare(Evidence(roles=expected.roles), actual)
    return {
        "result": "different" if differences else "equal",
        "differences": differences,
        "notes": notes,
        "restore_seconds": round(seconds, 3),
        "compare_seconds": round(time.monotonic() - started - seconds, 3),
    }
