"""How sources and backups are named in a store: percent-encoded names, time-ordered ids, and the keys made of them."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote

MANIFEST = "manifest.json"
PROOF_PREFIX = "proof-"
GLOBALS = "@globals"
_PLAIN = re.compile(rb"[A-Za-z0-9_-]")
_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
ID_TIME = len("20261123T020003Z")
"""How many characters of a backup id are its time."""


def quote_name(name: str) -> str:
    """Percent-encode every byte of `name` outside `[A-Za-z0-9_-]`, so that any database name is one safe folder name.

    A PostgreSQL name has at most 63 bytes (NAMEDATALEN), so the result has at most 189 characters.
    """
    return "".join(chr(b) if _PLAIN.fullmatch(bytes([b])) else f"%{b:02X}" for b in name.encode())


@dataclass(frozen=True, order=True)
class Source:
    """What is backed up: one database of a server, or (`database` None) the server's globals: roles and tablespaces."""

    server: str
    database: str | None

    @property
    def id(self) -> str:
        """`server/database`, both percent-encoded; `server/@globals` for the globals. Also the folder in a store."""
        return f"{quote_name(self.server)}/{GLOBALS if self.database is None else quote_name(self.database)}"

    @classmethod
    def parse(cls, source_id: str) -> Source:
        """The inverse of `id`. Raises ValueError for anything that is not one."""
        server, separator, database = source_id.partition("/")
        if not (separator and server and database) or "/" in database:
            raise ValueError(f"not a source id: {source_id!r} (expected server/database)")
        return cls(unquote(server), None if database == GLOBALS else unquote(database))


def new_backup_id(taken_at: datetime) -> str:
    """A fresh id such as `20261123T020003Z-1a2b3c`: the snapshot's time in UTC and 24 random bits."""
    return f"{taken_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def is_backup_id(text: str) -> bool:
    """Whether `text` has the form that `new_backup_id` gives."""
    return _ID.fullmatch(text) is not None


def backup_folder(source_id: str, backup_id: str) -> str:
    """The key prefix, without a trailing slash, under which all objects of one backup stand."""
    return f"{source_id}/{backup_id}"


def new_proof_name(checked_at: datetime) -> str:
    """A fresh name for a verification's result beside the manifest; results are added, never overwritten."""
    return f"{PROOF_PREFIX}{checked_at.astimezone(UTC):%Y%m%dT%H%M%S%f}Z-{secrets.token_hex(3)}.json"
