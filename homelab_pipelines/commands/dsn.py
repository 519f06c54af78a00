"""`--into DSN`: the database that a command writes into, named as libpq does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from homelab_pipelines.backup.connection import Connection, Direct
from homelab_pipelines.backup.errors import BackupError

_DSN_EXAMPLE = "postgresql://user@host:5432/database"
_DSN_PARTS = {"host", "port", "user", "password", "dbname", "sslmode"}


class DsnInvalid(BackupError):
    """`--into` does not say which database of which server."""


def connection_of(parts: dict[str, Any]) -> Connection:
    """The server of --into; what it leaves out comes from libpq's environment variables."""
    place = place_of(parts)
    user = str(parts.get("user") or os.environ.get("PGUSER") or "postgres")
    password = parts.get("password") or os.environ.get("PGPASSWORD")
    return Connection(str(place), place, user, str(password) if password else None)


def place_of(parts: dict[str, Any]) -> Direct:
    """Where the server of --into is."""
    return Direct(
        str(parts.get("host") or os.environ.get("PGHOST") or _socket_folder()),
        _port(str(parts.get("port") or os.environ.get("PGPORT") or 5432)),
        str(parts.get("sslmode") or os.environ.get("PGSSLMODE") or "prefer"),
    )


def read_dsn(text: str) -> dict[str, Any]:
    """The parts of --into; what is not understood is refused. Never repeats the text, which may hold a password."""
    try:
        parts: dict[str, Any] = conninfo_to_dict(text)
    except ProgrammingError:
        raise DsnInvalid("reading --into", "it is not a connection string", _DSN_EXAMPLE) from None
    if unknown := sorted(set(parts) - _DSN_PARTS):
        raise DsnInvalid(
            "reading --into", f"{', '.join(unknown)} cannot be said here", f"only {', '.join(sorted(_DSN_PARTS))}"
        )
    if not parts.get("dbname"):
        raise DsnInvalid("reading --into", "it names no database", _DSN_EXAMPLE)
    return parts


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise DsnInvalid("reading --into", f"{text!r} is not a port", _DSN_EXAMPLE)
    return int(text)


def _socket_folder() -> str:
    return next((each for each in ("/var/run/postgresql", "/tmp") if Path(each).is_dir()), "localhost")  # noqa: S108
