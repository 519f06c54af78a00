"""One backup on its way to its targets: objects streamed, the manifest last, gaps filled, a failure undone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from homelab_pipelines.backup import evidence
from homelab_pipelines.backup.connection import Connection
from homelab_pipelines.backup.errors import BackupError, CaptureFailed, SourceRefused, SourceUnavailable
from homelab_pipelines.backup.fan_out import FanOut, Target
from homelab_pipelines.backup.layout import MANIFEST, Source, backup_folder
from homelab_pipelines.backup.manifest import Manifest, NotCarried, StoredObject
from homelab_pipelines.backup.pipeline import Encoding, Written, copy_object, encode
from homelab_pipelines.backup.processes import Running, describe_exit, running
from homelab_pipelines.backup.prune import delete_backup
from homelab_pipelines.backup.server import ServerFacts
from homelab_pipelines.backup.session import Session, connect
from homelab_pipelines.backup.stores.base import put

DUMP_MAGIC = b"PGDMP"  # the first bytes of a custom-format archive (pg_backup_archiver.h: K_VERS)
_GLOBALS_MAGIC = b"--"
_ROLE_ATTEMPTS = 3

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


class Run:
    """The objects of one backup on their way to the targets that are still good. As a context: undone when it fails."""

    def __init__(
        self, source: Source, backup_id: str, targets: Sequence[Target], options: CaptureOptions, report: Progress
    ) -> None:
        self.id = backup_id
        self.objects: list[StoredObject] = []
        self.warned: list[NotCarried] = []
        self.source = source
        self._folder = backup_folder(source.id, backup_id)
        self._targets = list(targets)
        self._good = list(targets)
        self._missed: dict[str, str] = {}
        self._holding: set[str] = set()
        self._written: dict[str, str] = {}
        self.options = options
        self.report = report

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        """What fails or is interrupted leaves no objects without a manifest: they would fill a disk, night by night."""
        if kind is not None:
            self._discard()

    def store(
        self,
        role: str,
        name: str,
        process: Running,
        magic: bytes,
        expected: int,
        evidence_of_it: Future[Any] | None = None,
        before_commit: Callable[[], object] = lambda: None,
        trailer: bytes = b"",
    ) -> None:
        """Stream what a program writes to every good target; committed only after the program ended well.

        `evidence_of_it` is what is recorded meanwhile: when that fails, so does this, at once. `trailer` follows what
        the program wrote.
        """
        name += self.options.encoding.suffix
        fan_out = FanOut(f"{self._folder}/{name}", self._good, expected)
        content = _Checked(process, magic, evidence_of_it, trailer)
        try:
            written: Written = encode(
                content,
                self.options.encoding,
                fan_out.write,
                lambda done, _: self.report(f"dumping {self.source.id}" if role == "dump" else role, done, expected),
            )
            if role == "dump":
                warnings = content.check_ended_well(f"dumping {self.source.id}", "pg_dump")
            else:
                warnings = content.check_ended_well(f"dumping the roles of {self.source.id}", "pg_dumpall")
            if evidence_of_it is not None:
                evidence_of_it.result()
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
        self, connection: Connection, database: str | None, facts: ServerFacts, readable: bool, trailer: bytes = b""
    ) -> tuple[dict[str, str], list[NotCarried]]:
        """Store the server's globals; the evidence of its roles, and what of them this account may not read.

        Roles stand outside every snapshot: they are looked at before and after, and dumped again when they changed.
        """
        command = connection.command(
            "pg_dumpall",
            "--globals-only",
            "--encoding=UTF8",  # whatever the maintenance database has: no other is read back
            "--no-password",
            *(() if readable else ("--no-role-passwords",)),
            f"--database={connection.maintenance_database}",  # it takes no notice of the one in --dbname
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
                            trailer=trailer,
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
            self.report(f"filling {target.name}", 0, manifest.bytes)
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

    def _discard(self) -> None:
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


class _Checked:
    """A program's output: its first bytes must be those of a dump, and it must have ended with status 0."""

    def __init__(self, process: Running, magic: bytes, beside: Future[Any] | None, trailer: bytes) -> None:
        self._process = process
        self._magic = magic
        self._beside = beside
        self._trailer = trailer
        self._first = b""

    def read(self, size: int) -> bytes:
        if self._beside is not None and self._beside.done():
            self._beside.result()
        chunk = self._process.read(size)
        if not chunk:
            chunk, self._trailer = self._trailer, b""
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
                "could not receive data from server",  # its machine or the network went: see connection.LIVENESS
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
