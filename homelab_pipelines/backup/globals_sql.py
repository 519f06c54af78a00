"""Reading what pg_dumpall --globals-only wrote: statements, and which role each is about. Executes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_IDENTIFIER = r'("(?:[^"]|"")+"|[^\s;"]+)'
_ROLE = re.compile(rf"(?:CREATE|ALTER|COMMENT ON) ROLE {_IDENTIFIER}", re.IGNORECASE)
_GRANT = re.compile(rf"GRANT {_IDENTIFIER} TO {_IDENTIFIER}", re.IGNORECASE)
_TABLESPACE = re.compile(r"(?:CREATE|ALTER|COMMENT ON) TABLESPACE|GRANT .* ON TABLESPACE|REVOKE .* ON TABLESPACE", re.I)
_GRANTED_BY = re.compile(rf" GRANTED BY {_IDENTIFIER}(?=;?$)", re.IGNORECASE)
_PIECE = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|;|[^'";-]+|-""")


@dataclass(frozen=True)
class Statement:
    """One statement, without its semicolon; `role` is the role it creates, alters or grants to, unquoted."""

    text: str
    kind: str
    role: str | None


def statements(sql: str) -> Iterator[Statement]:
    """The statements of a globals dump in order; psql's own commands (\\restrict) and settings are left out."""
    text = "\n".join(line for line in sql.split("\n") if not line.startswith("\\"))
    current: list[str] = []
    for piece in _PIECE.findall(text):
        if piece.startswith("--"):
            continue
        if piece != ";":
            current.append(piece)
            continue
        statement = "".join(current).strip()
        current = []
        if statement and not statement.upper().startswith("SET "):
            yield _classified(statement)


def _classified(text: str) -> Statement:
    if _TABLESPACE.match(text):
        return Statement(text, "tablespace", None)
    if found := _ROLE.match(text):
        kind = "create role" if text.upper().startswith("CREATE") else "alter role"
        return Statement(text, kind, unquote(found.group(1)))
    if found := _GRANT.match(text):
        # The grantor is a role of the source that may not be a superuser here: the grant itself is what counts.
        return Statement(_GRANTED_BY.sub("", text), "grant role", unquote(found.group(2)))
    return Statement(text, "other", None)


def unquote(identifier: str) -> str:
    """The name that an SQL identifier stands for."""
    return identifier[1:-1].replace('""', '"') if identifier.startswith('"') else identifier
