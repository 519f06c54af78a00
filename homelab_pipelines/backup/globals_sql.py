"""Reading what pg_dumpall --globals-only wrote: statements, and which role each is about. Executes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

_IDENTIFIER = r'("(?:[^"]|"")+"|[^\s;"]+)'
_ROLE = re.compile(rf"(?:CREATE|ALTER|COMMENT ON) ROLE {_IDENTIFIER}", re.IGNORECASE)
_GRANT = re.compile(
    rf"GRANT {_IDENTIFIER} TO {_IDENTIFIER}(?: WITH ([A-Z, ]+?))?(?: GRANTED BY {_IDENTIFIER})?", re.IGNORECASE
)
_TABLESPACE = re.compile(r"(?:CREATE|ALTER|COMMENT ON) TABLESPACE|GRANT .* ON TABLESPACE|REVOKE .* ON TABLESPACE", re.I)
# Strings (a backslash in them is doubled, never before a quote), names, comments, psql's own commands, the rest.
_PIECE = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|\\[^\n]*|;|[^'";\\-]+|-""")


@dataclass(frozen=True)
class Statement:
    """One statement, without its semicolon; `role` is the role it creates, alters or grants to, unquoted."""

    text: str
    kind: str
    role: str | None


def statements(sql: str) -> list[Statement]:
    """The statements of a globals dump in order; psql's own commands (\\restrict) and settings are left out.

    Grants of one role to one member by several grantors, which PostgreSQL 16 and newer tell apart, become one grant of
    all they allow: the grantors are roles of the source that may not grant here, and of two grants by one role the
    later would undo the earlier.
    """
    found: list[Statement] = []
    grants: dict[tuple[str, str], list[str]] = {}
    for text in _split(sql):
        if grant := _GRANT.fullmatch(text):
            key = (grant.group(1), grant.group(2))
            grants.setdefault(key, []).append((grant.group(3) or "").upper())
            if len(grants[key]) > 1:
                continue
        found.append(_classified(text))
    return [_merged(statement, grants) for statement in found]


def _split(sql: str) -> Iterator[str]:
    current: list[str] = []
    for piece in _PIECE.findall(sql):
        if piece.startswith(("--", "\\")):
            continue
        if piece != ";":
            current.append(piece)
            continue
        statement = "".join(current).strip()
        current = []
        if statement and not statement.upper().startswith("SET "):
            yield statement


def _classified(text: str) -> Statement:
    if _TABLESPACE.match(text):
        return Statement(text, "tablespace", None)
    if found := _ROLE.match(text):
        kind = "create role" if text.upper().startswith("CREATE") else "alter role"
        return Statement(text, kind, unquote(found.group(1)))
    if found := _GRANT.fullmatch(text):
        return Statement(text, "grant role", unquote(found.group(2)))
    return Statement(text, "other", None)


def _merged(statement: Statement, grants: dict[tuple[str, str], list[str]]) -> Statement:
    found = _GRANT.fullmatch(statement.text)
    if found is None:
        return statement
    given = grants[(found.group(1), found.group(2))]
    options = ["ADMIN OPTION"] if any("ADMIN OPTION" in each for each in given) else []
    if any("INHERIT" in each for each in given):  # written by every pg_dumpall from 16 on; SET TRUE goes without saying
        options.append(f"INHERIT {'TRUE' if any('INHERIT TRUE' in each for each in given) else 'FALSE'}")
        options.append(f"SET {'FALSE' if all('SET FALSE' in each for each in given) else 'TRUE'}")
    text = f"GRANT {found.group(1)} TO {found.group(2)}"
    return replace(statement, text=f"{text} WITH {', '.join(options)}" if options else text)


def unquote(identifier: str) -> str:
    """The name that an SQL identifier stands for."""
    return identifier[1:-1].replace('""', '"') if identifier.startswith('"') else identifier
