"""Databases of every encoding, and bytes that are no text of any: they are listed, backed up and proven like others."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from homelab_pipelines.backup.capture import capture_globals
from homelab_pipelines.backup.fan_out import Target
from homelab_pipelines.backup.restored_copy import RestoreOptions, compare_restored
from homelab_pipelines.backup.server import databases
from homelab_pipelines.backup.stores.directory import DirectoryStore
from tests.integration.backup.conftest import PLAIN, capture, connection_to, restore, verify
from tests.peers.postgres import FreshDatabase, PostgresPeer, every_major

pytestmark = pytest.mark.postgres

# "Größe" and "Maß" in Latin-1, which is no UTF-8: what old applications left in databases that check nothing.
LATIN = [
    b'CREATE TABLE "Gr\xf6\xdfe" (id serial PRIMARY KEY, "Ma\xdf" text DEFAULT \'\xe4\')',
    b'INSERT INTO "Gr\xf6\xdfe" ("Ma\xdf") SELECT \'caf\xe9 \' || n FROM generate_series(1, 300) AS n',
    b'CREATE VIEW "\xfcbersicht" AS SELECT "Ma\xdf" || \'\xdf\' AS x FROM "Gr\xf6\xdfe"',
    b"CREATE FUNCTION sz() RETURNS text LANGUAGE sql AS $$SELECT '\xdf'::text$$",
    b"COMMENT ON TABLE \"Gr\xf6\xdfe\" IS 'f\xfcr alle'",
    b"CREATE TYPE laune AS ENUM ('fr\xf6hlich')",
    b'CREATE INDEX "ma\xdf" ON "Gr\xf6\xdfe" ("Ma\xdf")',
    "CREATE TABLE utf (word text); INSERT INTO utf VALUES ('größer'), ('日本語')".encode(),
]


def create(peer: PostgresPeer, encoding: str) -> FreshDatabase:
    database = peer.create_database()
    with peer.connect() as connection:
        name = sql.Identifier(database.name)
        connection.execute(sql.SQL("DROP DATABASE {}").format(name))
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE 'C'").format(name, encoding)
        )
    return database


def execute(database: FreshDatabase, statement: str | bytes) -> None:
    """Run a statement as a client of UTF-8, or one of bytes as a client that names no encoding."""
    encoding = "UTF8" if isinstance(statement, str) else "SQL_ASCII"
    with psycopg.connect(database.dsn, autocommit=True, client_encoding=encoding) as connection:
        connection.execute(statement.encode() if isinstance(statement, str) else statement)


@pytest.fixture
def ascii_database(postgres_server: PostgresPeer) -> Iterator[FreshDatabase]:
    """An SQL_ASCII database with names, values, code and comments that are no UTF-8."""
    database = create(postgres_server, "SQL_ASCII")
    for statement in LATIN:
        execute(database, statement)
    yield database
    postgres_server.drop_database(database.name)


@every_major
def test_bytes_that_are_no_utf8_are_restored_equal(
    postgres_server: PostgresPeer, ascii_database: FreshDatabase, nas: DirectoryStore
) -> None:
    manifest = capture(postgres_server, ascii_database.name, nas).manifest
    tables = {table.name: (table.rows, table.content_hash) for table in manifest.evidence.tables}
    assert tables[r'public."Gr\xf6\xdfe"'][0] == 300
    assert tables[r'public."Gr\xf6\xdfe"'][1] is not None
    assert r'view public."\xfcbersicht"' in manifest.evidence.objects
    (proof,) = verify(manifest, nas)
    assert (proof.result, proof.differences) == ("equal", [])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            b'UPDATE "Gr\xf6\xdfe" SET "Ma\xdf" = \'caf\xe8 1\' WHERE id = 1',
            r'table public."Gr\xf6\xdfe": the same 300',
        ),
        (
            b'DELETE FROM "Gr\xf6\xdfe" WHERE id = 1',
            r'table public."Gr\xf6\xdfe": 300 rows in the source, 299 restored',
        ),
        (b"COMMENT ON TABLE \"Gr\xf6\xdfe\" IS 'f\xf9r alle'", r'table public."Gr\xf6\xdfe" is defined differently'),
        (
            b"CREATE OR REPLACE FUNCTION sz() RETURNS text LANGUAGE sql AS $$SELECT '\xe0'::text$$",
            "routine public.sz()",
        ),
        (b'ALTER INDEX "ma\xdf" RENAME TO "ma\xde"', r'index public."ma\xdf" is missing from the restored copy'),
    ],
)
def test_one_changed_byte_is_named(
    postgres_server: PostgresPeer, ascii_database: FreshDatabase, nas: DirectoryStore, change: bytes, expected: str
) -> None:
    manifest = capture(postgres_server, ascii_database.name, nas).manifest
    name = f"{ascii_database.name}_copy"
    try:
        restore(postgres_server, name, nas, manifest)
        execute(FreshDatabase(postgres_server, name), change)
        options = RestoreOptions(scratch=False)
        differences, _ = compare_restored(connection_to(postgres_server), name, manifest, options)
    finally:
        postgres_server.drop_database(name)
    assert [line for line in differences if line.startswith(expected)], differences


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_maintenance_database_of_any_encoding_lists_and_carries_names(
    postgres_server: PostgresPeer, nas: DirectoryStore, encoding: str
) -> None:
    database = create(postgres_server, encoding)
    source = connection_to(postgres_server, maintenance_database=database.name)
    try:
        assert database.name in databases(source)
        execute(database, "CREATE ROLE größer")
        manifest = capture_globals(source, [Target(nas)], PLAIN).manifest
        assert "größer" in manifest.evidence.roles
        (proof,) = verify(manifest, nas)
        assert (proof.result, proof.differences) == ("equal", [])
    finally:
        execute(database, "DROP ROLE IF EXISTS größer")
        postgres_server.drop_database(database.name)


def test_database_of_another_encoding_is_dumped_in_it_whatever_its_clients_use(
    postgres_server: PostgresPeer, nas: DirectoryStore
) -> None:
    """The client encoding that the database sets for its clients cannot hold the words in it."""
    database = create(postgres_server, "UTF8")
    try:
        execute(database, "CREATE TABLE utf (word text); INSERT INTO utf VALUES ('größer'), ('日本語')")
        execute(database, f"ALTER DATABASE {database.name} SET client_encoding = 'LATIN1'")
        manifest = capture(postgres_server, database.name, nas).manifest
        (proof,) = verify(manifest, nas)
        assert (proof.result, proof.differences) == ("equal", [])
    finally:
        postgres_server.drop_database(database.name)
