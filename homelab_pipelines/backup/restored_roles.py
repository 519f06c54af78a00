"""The roles of a restored backup: those that a server lacks are made, and dropped again when the restore fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from homelab_pipelines.backup.connection import Connection
from homelab_pipelines.backup.database_sql import identifier, literal
from homelab_pipelines.backup.errors import BackupError, SourceUnavailable
from homelab_pipelines.backup.globals_sql import statements
from homelab_pipelines.backup.server import server_facts
from homelab_pipelines.backup.session import Session, connect, printable


def restore_globals(connection: Connection, sql: str, scratch: bool) -> tuple[list[str], list[str]]:
    """Create the roles of a globals dump that this server has not, and their grants; existing ones stay as they are.

    Tablespaces are left to a person: their folders are the server's own. Returns a line for what was left out, and the
    roles made. Raises a BackupError; then none is made.
    """
    notes: list[str] = []
    found = statements(sql)
    with connect(connection) as session:
        present = {row["rolname"] for row in session.rows("SELECT rolname FROM pg_catalog.pg_roles")}
        left = sorted({s.role for s in found if s.kind == "create role" and s.role in present and s.role is not None})
        if left and not scratch:
            notes.append(f"roles that were there already, left as they are: {printable(', '.join(left))}")
        session.execute("BEGIN")
        for statement in found:
            if statement.kind == "tablespace":
                if statement.text.upper().startswith("CREATE"):
                    name = printable(statement.text.split()[2])
                    notes.append(f"tablespace not created: {name}; its data went to the default")
            elif statement.role not in present:
                session.execute(statement.text)
        session.execute("COMMIT")
    return notes, [s.role for s in found if s.kind == "create role" and s.role is not None and s.role not in present]


@contextmanager
def roles_dropped_on_failure(connection: Connection) -> Iterator[list[str]]:
    """A list to name the roles that this restore makes; they are dropped when the block fails.

    One that somebody uses by then is not dropped (the server refuses), and nothing that it owns is.
    """
    made: list[str] = []
    try:
        yield made
    except BaseException as error:
        left = _drop_roles(connection, made)
        if left and isinstance(error, BackupError):
            error.why += f"; roles that this restore made and that could not be dropped: {', '.join(left)}"
        raise


def _drop_roles(connection: Connection, roles: Sequence[str]) -> list[str]:
    """Drop these roles; the names of those that stay, quoted as SQL."""
    left: list[str] = []
    for number, role in enumerate(roles):
        try:
            with connect(connection) as session:  # one for each: psql ends at the first refusal
                # Not DROP OWNED, which would drop what somebody made under this role meanwhile.
                for parameter in _granted_parameters(session, role):
                    session.execute(f"REVOKE ALL ON PARAMETER {parameter} FROM {identifier(role)}")
                session.execute(f"DROP ROLE IF EXISTS {identifier(role)}")
        except SourceUnavailable:
            left += roles[number:]
            break
        except BackupError:
            left.append(role)
    return [printable(identifier(role)) for role in left]


def _granted_parameters(session: Session, role: str) -> list[str]:
    """The server parameters that a role may set, which is the only privilege of the globals that keeps a role."""
    if server_facts(session).major < 15:
        return []
    return [
        row["parname"]
        for row in session.rows(
            "SELECT DISTINCT parname FROM pg_catalog.pg_parameter_acl, pg_catalog.aclexplode(paracl) AS entry"
            f" JOIN pg_catalog.pg_roles ON pg_roles.oid = entry.grantee WHERE rolname = {literal(role)}"
        )
    ]
