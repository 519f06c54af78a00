"""What is written beside a backup's data: the manifest, which is the commit point, and the proofs added to it later."""

from __future__ import annotations

import builtins
import hashlib
import json
from datetime import datetime, timedelta
from typing import Any, Literal, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from homelab_pipelines.backup.errors import BackupDamaged

FORMAT: Literal[1] = 1
R = TypeVar("R", bound="_Record")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TableEvidence(_Record):
    """One relation that holds rows, as seen in the dump's snapshot.

    `content_hash` is the decimal sum over all rows of hashtextextended(row::text, 0), which does not depend on their
    order; None where the table is larger than the inventory's limit. `rows` is None for a materialised view, whose rows
    are derived: a restore refreshes it.
    """

    name: str
    kind: Literal["table", "materialised view"]
    rows: int | None
    bytes: int
    content_hash: str | None = None


class SequenceEvidence(_Record):
    """A sequence's `last_value` and `is_called` before and after the dump: sequences stand outside every snapshot."""

    name: str
    before: tuple[int, bool]
    after: tuple[int, bool]
    increment: int
    cycle: bool


class LargeObjectEvidence(_Record):
    """How many large objects there are, and the order-independent hash of their numbers and contents."""

    count: int
    content_hash: str | None = None


class DatabaseProperties(_Record):
    """What CREATE DATABASE and ALTER DATABASE said of a database; pg_dump keeps it outside a plain restore."""

    encoding: str
    provider: Literal["libc", "icu", "builtin"]
    collate: str
    ctype: str
    locale: str | None = None
    icu_rules: str | None = None
    owner: str
    connection_limit: int = -1
    privileges: list[str] = Field(default_factory=list, description="GRANT statements without the database's name")
    settings: list[str] = Field(default_factory=list, description="name=value, or role: name=value for one role")
    hidden_settings: list[str] = Field(
        default_factory=list, description="names of an application's settings; their values stand with the globals"
    )
    comment: str | None = None


class Evidence(_Record):
    """All that a restored copy is compared with.

    `form` numbers the queries that made the digests of `objects` and `roles`: only digests of one form can be compared.
    """

    form: int = 1
    database: DatabaseProperties | None = None
    tables: list[TableEvidence] = []
    sequences: list[SequenceEvidence] = []
    large_objects: LargeObjectEvidence | None = None
    extensions: dict[str, str] = {}
    objects: dict[str, str] = Field(default={}, description="identity of each schema object → digest of its definition")
    roles: dict[str, str] = Field(default={}, description="role → digest of its attributes, memberships and settings")
    role_passwords: bool = Field(default=False, description="whether the digests in `roles` cover password verifiers")

    @property
    def schema_fingerprint(self) -> str:
        """SHA-256 (hex) over all schema objects and their definitions."""
        return hashlib.sha256(json.dumps(self.objects, sort_keys=True).encode()).hexdigest()

    @property
    def rows(self) -> int:
        """Rows of all tables together."""
        return sum(table.rows or 0 for table in self.tables)


class StoredObject(_Record):
    """One object of a backup as it stands in every store: `bytes` and `sha256` are of the stored form."""

    name: str
    role: Literal["dump", "globals"]
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    content_bytes: int = Field(ge=0, description="bytes before compression and encryption")


class NotCarried(_Record):
    """Something of the source that this backup does not hold, and why."""

    what: str
    why: str


class Manifest(_Record):
    """Everything needed to restore a backup and to judge it. Written last; without a valid one there is no backup."""

    format: Literal[1] = FORMAT
    source: str
    id: str
    kind: Literal["postgres_database", "postgres_globals"]
    taken_at: AwareDatetime
    finished_at: AwareDatetime
    duration: timedelta
    server_version: str
    server_major: int
    server_bytes: int = Field(default=0, description="pg_database_size at the snapshot")
    server_image: str | None = None
    programs: dict[str, str]
    objects: list[StoredObject] = Field(min_length=1)
    compression: str
    recipients: list[str] = []
    evidence: Evidence
    not_carried: list[NotCarried] = []
    restore_commands: list[str] = []

    @property
    def bytes(self) -> int:
        """Stored bytes of all objects together."""
        return sum(stored.bytes for stored in self.objects)

    def object(self, role: Literal["dump", "globals"]) -> StoredObject | None:
        """The object with this role, or None."""
        return next((stored for stored in self.objects if stored.role == role), None)

    def to_bytes(self) -> builtins.bytes:
        """The JSON that is stored: the fields and `digest`, the SHA-256 of the canonical JSON of all other fields."""
        fields = self.model_dump(mode="json")
        return json.dumps({**fields, "digest": _digest(fields)}, indent=1, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: builtins.bytes, where: str) -> Self:
        """Read what `to_bytes` wrote. Raises BackupDamaged, naming `where`, when a byte of it was changed."""
        return _read(cls, data, where)


class Proof(_Record):
    """One verification of one copy.

    `equal`: restored and found equal (`method` restored), or re-read with the digest of one that was (`same digest`).
    `different`: restored, and not equal. `damaged`: not what was written. `failed`: the restore itself failed.
    """

    format: Literal[1] = FORMAT
    source: str
    id: str
    target: str
    checked_at: AwareDatetime
    result: Literal["equal", "different", "damaged", "failed"]
    method: Literal["restored", "same digest"]
    differences: list[str] = []
    notes: list[str] = []
    restore_seconds: float | None = None
    compare_seconds: float | None = None
    scratch: str | None = None

    def to_bytes(self) -> builtins.bytes:
        """The JSON that is stored, with its own digest as in a manifest."""
        fields = self.model_dump(mode="json")
        return json.dumps({**fields, "digest": _digest(fields)}, indent=1, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: builtins.bytes, where: str) -> Self:
        """Read what `to_bytes` wrote. Raises BackupDamaged, naming `where`, when a byte of it was changed."""
        return _read(cls, data, where)


class BackupRecord(_Record):
    """One finished backup on one target, as listed: its manifest, its proofs, and what its listing shows is wrong."""

    target: str
    location: str
    manifest: Manifest
    proofs: list[Proof] = []
    damage: str | None = None

    @property
    def taken_at(self) -> datetime:
        """When the source's snapshot was taken."""
        return self.manifest.taken_at

    @property
    def latest_proof(self) -> Proof | None:
        """The newest verification of this copy."""
        return max(self.proofs, key=lambda proof: proof.checked_at, default=None)

    @property
    def status(self) -> Literal["verified", "unverified", "failed"]:
        """`failed` when the newest verification or the listing found something wrong."""
        if self.damage:
            return "failed"
        proof = self.latest_proof
        if proof is None:
            return "unverified"
        return "verified" if proof.result == "equal" else "failed"


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read(model: type[R], data: builtins.bytes, where: str) -> R:
    what, next_step = f"reading {where}", "homelab verify, then restore from another copy or an older backup"
    try:
        fields = json.loads(data)
        digest = fields.pop("digest")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BackupDamaged(
            what, f"not a complete JSON document with a digest ({len(data)} bytes)", next_step
        ) from error
    if digest != _digest(fields):
        raise BackupDamaged(
            what, "its digest does not fit its contents: it was altered after it was written", next_step
        )
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise BackupDamaged(what, f"not a format-{FORMAT} document: {error.errors()[0]['msg']}", next_step) from error
