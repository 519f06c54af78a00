"""What a database says of itself between backups. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from homelab_pipelines.backup import evidence
from homelab_pipelines.backup.connection import Connection
from homelab_pipelines.backup.server import server_facts
from homelab_pipelines.backup.session import connect


@dataclass(frozen=True)
class DatabaseFacts:
    """`bytes` on disk; `longest_transaction` and `connections` of this database; `replicas` of the whole server."""

    version: str
    bytes: int
    extensions: dict[str, str]
    connections: int
    longest_transaction: timedelta
    replicas: int


def observe(connection: Connection, database: str) -> DatabaseFacts:
    """Connect with the configured account and look. Raises SourceUnavailable or SourceRefused."""
    with connect(connection, database) as session:
        facts = server_facts(session)
        row = session.rows(
            """SELECT pg_database_size(current_database()) AS bytes,
            (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = current_database()) AS connections,
            (SELECT coalesce(extract(epoch FROM max(now() - xact_start)), 0)::float8 FROM pg_catalog.pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()) AS longest,
            (SELECT count(*) FROM pg_catalog.pg_stat_replication) AS replicas"""
        )[0]
        return DatabaseFacts(
            version=facts.version,
            bytes=int(row["bytes"]),
            extensions=evidence.extensions(session),
            connections=int(row["connections"]),
            longest_transaction=timedelta(seconds=float(row["longest"])),
            replicas=int(row["replicas"]),
        )
