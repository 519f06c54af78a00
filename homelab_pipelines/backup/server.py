"""What a PostgreSQL server says of itself: version, databases, sizes. Reads only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from homelab_pipelines.backup.connection import Connection
from homelab_pipelines.backup.errors import SourceRefused
from homelab_pipelines.backup.session import Session, connect, printable

OLDEST_VERSION, NEWEST_VERSION = 13, 18


@dataclass(frozen=True)
class ServerFacts:
    """`version` as people write it (15.18), `number` as server_version_num, sizes in bytes."""

    version: str
    number: int

    @property
    def major(self) -> int:
        """The major version."""
        return self.number // 10000


def server_facts(session: Session) -> ServerFacts:
    """The version of the server behind a session. Raises SourceRefused outside 13 to 18."""
    row = session.rows(
        "SELECT current_setting('server_version_num') AS number, current_setting('server_version') AS version"
    )[0]
    facts = ServerFacts(row["version"].split()[0], int(row["number"]))
    if not OLDEST_VERSION <= facts.major <= NEWEST_VERSION:
        raise SourceRefused(
            f"backing up PostgreSQL {facts.version}",
            f"versions {OLDEST_VERSION} to {NEWEST_VERSION} are supported",
            "upgrade the server" if facts.major < OLDEST_VERSION else "upgrade homelab_pipelines",
        )
    return facts


def databases(connection: Connection) -> list[str]:
    """Every database of the server that allows connections, templates left out, by name."""
    with connect(connection) as session:
        rows = session.rows(
            "SELECT datname FROM pg_catalog.pg_database WHERE NOT datistemplate AND datallowconn ORDER BY datname"
        )
    return [printable(row["datname"]) for row in rows]


def selected(names: Iterable[str], include: Iterable[str], exclude: Iterable[str]) -> list[str]:
    """The names that match a pattern of `include` and none of `exclude` (shell patterns, case matters)."""
    included, excluded = tuple(include), tuple(exclude)
    return [
        name
        for name in names
        if any(fnmatchcase(name, pattern) for pattern in included)
        and not any(fnmatchcase(name, pattern) for pattern in excluded)
    ]
