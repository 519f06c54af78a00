"""SQL sessions: one small interface over psycopg, and over psql where only a command reaches the server."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import dict_row

from homelab_pipelines.backup.connection import Connection, Direct, shielded
from homelab_pipelines.backup.errors import BackupError, CaptureFailed, SourceRefused, SourceUnavailable

Row = dict[str, Any]

# What changes the text of a value or of a definition is fixed, so that two servers write the same data alike; and no
# timeout that the role, the database or the server sets for applications ends a session that takes as long as it takes.
SETTINGS = """
SET search_path = ''; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC';
SET extra_float_digits = 3; SET bytea_output = 'hex'; SET xmlbinary = 'base64'; SET lc_monetary = 'C';
SET row_security = off; SET standard_conforming_strings = on; SET quote_all_identifiers = off; SET jit = off;
SELECT set_config('client_encoding', CASE current_setting('server_encoding') WHEN 'SQL_ASCII' THEN 'SQL_ASCII'
    ELSE 'UTF8' END, false);
SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout',
    'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')
"""

# A server converts to UTF-8 from every encoding but SQL_ASCII, whose text is whatever bytes it was given. Those that
# are no UTF-8 come and go as lone surrogates, so that a name of them can be asked for again.
_ENCODING, _ERRORS = "utf-8", "surrogateescape"


def printable(text: str) -> str:
    r"""`text` of a session with its bytes that are no UTF-8 written as `\xe4`: what JSON and messages can hold."""
    return text_bytes(text).decode(_ENCODING, "backslashreplace")


def text_bytes(text: str) -> bytes:
    """The bytes that the server sent, or is to be sent, for `text` of a session."""
    return text.encode(_ENCODING, _ERRORS)


class Session(Protocol):
    """One connection to one database. Text may hold lone surrogates: see `printable`."""

    def rows(self, query: str) -> list[Row]:
        """Run one SELECT; numbers beyond 64 bits must be cast to text in it. Raises a BackupError."""

    def execute(self, statement: str) -> None:
        """Run statements that give no rows. Raises a BackupError."""

    def cancel(self) -> None:
        """From another thread: end the statement that runs now, which raises there; nothing when none runs."""


class _TextLoader(Loader):
    """psycopg gives bytes for the text of an SQL_ASCII database, and fails at what is no UTF-8."""

    def load(self, data: Buffer) -> str:
        return bytes(data).decode(_ENCODING, _ERRORS)


class _PsycopgSession:
    def __init__(self, connection: psycopg.Connection[Row], where: str) -> None:
        self._connection = connection
        self._where = where
        for name in ("text", "name", "varchar", "bpchar", '"char"'):
            connection.adapters.register_loader(name, _TextLoader)

    def rows(self, query: str) -> list[Row]:
        with _translated(self._where):
            return self._connection.execute(text_bytes(query)).fetchall()

    def execute(self, statement: str) -> None:
        with _translated(self._where):
            self._connection.execute(text_bytes(statement))

    def cancel(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self._connection.cancel_safe(timeout=5)


class _PsqlSession:
    """psql kept open over pipes: each query's answer is JSON, ended by a line that no data can hold."""

    def __init__(self, process: subprocess.Popen[str], where: str, errors: Any) -> None:
        self._process = process
        self._where = where
        self._errors = errors
        self._end = f"end-{secrets.token_hex(16)}"

    def rows(self, query: str) -> list[Row]:
        answer = self._ask(f"SELECT coalesce(json_agg(answer), '[]'::json) FROM ({query}) AS answer;")
        return cast(list[Row], json.loads(answer))

    def execute(self, statement: str) -> None:
        self._ask(f"{statement};")

    def cancel(self) -> None:
        # No signal passes docker exec or kubectl exec; the server notices the end of its client by itself.
        self._process.kill()

    def _ask(self, text: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101 (both are pipes)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{text}\n\\echo {self._end}\n")
            self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.rstrip("\n") == self._end:
                return "".join(lines)
            lines.append(line)
        self._process.wait()
        self._errors.seek(0)
        raise _from_message(self._where, self._errors.read().decode(errors="replace").strip())


@contextmanager
def connect(connection: Connection, database: str | None = None) -> Iterator[Session]:
    """A session with fixed settings on one database of a server, closed at the end.

    Raises SourceUnavailable when the server cannot be reached, SourceRefused when it refuses.
    """
    where = f"database {database or connection.maintenance_database!r} on {connection}"
    if isinstance(connection.place, Direct):
        with _translated(where):
            plain: psycopg.Connection[Row] = psycopg.connect(
                shielded(connection.conninfo(database)),
                password=connection.password,
                client_encoding="UTF8",
                autocommit=True,
                row_factory=dict_row,
            )
        with plain:
            session: Session = _PsycopgSession(plain, where)
            session.execute(SETTINGS)
            yield session
        return
    with tempfile.TemporaryFile() as errors:
        command = connection.command(
            "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", connection.conninfo(database), server_major=0
        )
        try:
            process = subprocess.Popen(
                command.arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=command.full_environment(),
                encoding=_ENCODING,
                errors=_ERRORS,
            )
        except OSError as error:
            raise SourceUnavailable(
                f"reaching {where}", str(error), f"install {command.arguments[0]} here, or name another `at`"
            ) from error
        try:
            if command.first_line is not None and process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(command.first_line + "\n")
            session = _PsqlSession(process, where, errors)
            session.execute(SETTINGS)
            yield session
        finally:
            with contextlib.suppress(OSError):
                if process.stdin is not None:
                    process.stdin.close()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise _from_message(where, str(error).strip(), error.sqlstate) from error


# Ends of a session or a statement that say nothing of the account: a timeout, a person, a conflict on a standby.
_ENDED = ("terminating connection", "canceling statement")
_REFUSED = (
    "authentication failed",
    "no password supplied",
    "pg_hba.conf",
    "permission denied",
    "must be owner",
    "row-level security",
)
_REFUSED_STATES = ("28000", "28P01", "3D000", "42501")
_CHANGED = ("does not exist", "cache lookup failed", "could not open relation with OID")
# Classes of SQLSTATE (appendix A of PostgreSQL's manual) in which the server has trouble that may pass: no connection,
# rolled back, lack of resources, in use, operator intervention, system error.
_TROUBLED = ("08", "40", "53", "55", "57", "58")


def _from_message(where: str, message: str, state: str | None = None) -> BackupError:
    """Tell a refusal (password, no such database, privileges) from a server that is not there, and both from an error.

    `state` is the SQLSTATE where one is known: not of a connection that failed, and not through psql.
    """
    if state == "55P03" or "lock timeout" in message:
        return SourceUnavailable(
            f"locking the tables of {where}", message, "see what holds the lock in pg_stat_activity; a retry may do"
        )
    if any(sign in message for sign in _ENDED):
        return SourceUnavailable(
            f"asking {where}", message, "see the server's log for who ended it, a timeout or a person; a retry may do"
        )
    unknown = re.search(r'(database|role) ".*" does not exist', message)
    if unknown or state in _REFUSED_STATES or any(sign in message for sign in _REFUSED):
        return SourceRefused(
            f"asking {where}", message, "check user, password and privileges of this server in homelab.yaml"
        )
    if any(sign in message for sign in _CHANGED):
        return SourceUnavailable(f"asking {where}", f"{message} (changed while it was read)", "try again")
    if "ERROR:" in message or (state is not None and not state.startswith(_TROUBLED)):
        return CaptureFailed(f"asking {where}", message)
    return SourceUnavailable(
        f"talking to {where}", message or "the connection ended", "is the server up, and `at` in homelab.yaml right?"
    )
