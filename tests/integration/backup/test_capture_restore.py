"""A backup taken is a backup that restores equal: every major version, odd names, empty things, two targets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from psycopg import sql

from homelab_pipelines.backup.capture import capture_globals
from homelab_pipelines.backup.fan_out import Target
from homelab_pipelines.backup.layout import Source, backup_folder
from homelab_pipelines.backup.manifest import Manifest
from homelab_pipelines.backup.records import list_store
from homelab_pipelines.backup.server import databases
from homelab_pipelines.backup.stores.base import BackupStore, get
from homelab_pipelines.backup.stores.directory import DirectoryStore
from tests.integration.backup.conftest import (
    PLAIN,
    Key,
    capture,
    connection_to,
    count,
    directory_store,
    listed,
    record_of,
    restore,
    verify,
)
from tests.peers.postgres import FreshDatabase, PostgresPeer, every_major, fill_example, start_server

pytestmark = pytest.mark.postgres

ODD_NAMES = [
    " spaces on both sides ",
    'it\'s "quoted" `twice`',
    "with/slash\\and backslash",
    "new\nline",
    "🦉 owl",
    "100% %41 %s {database}",
    ".leading.dots..",
    "-dash --and=equals",
    "@globals",
    "sixty-three bytes: " + "x" * 44,
    "$(touch oops); DROP TABLE x; --",
    "dbname=postgres host=nowhere",
]


def manifest_bytes(store: BackupStore, manifest: Manifest) -> bytes:
    return get(store, f"{backup_folder(manifest.source, manifest.id)}/manifest.json")


@every_major
def test_database_with_one_of_everything_is_restored_equal(
    postgres_server: PostgresPeer, example_database: FreshDatabase, nas: DirectoryStore, usb: DirectoryStore, key: Key
) -> None:
    result = capture(postgres_server, example_database.name, nas, usb, options=key.options)
    assert result.missed == {}
    assert set(result.written) == {"nas", "usb"}
    assert result.filled == []
    manifest = result.manifest
    assert manifest_bytes(nas, manifest) == manifest_bytes(usb, manifest)
    assert Manifest.from_bytes(manifest_bytes(nas, manifest), "here") == manifest
    for stored in manifest.objects:
        data = [get(store, f"{backup_folder(manifest.source, manifest.id)}/{stored.name}") for store in (nas, usb)]
        assert data[0] == data[1]
        assert data[0].startswith(b"age-encryption.org/v1")
    assert manifest.evidence.rows > 150
    assert manifest.server_major == postgres_server.major

    first, second = verify(manifest, nas, usb, identities=key.identities)
    assert (first.result, first.method, first.differences) == ("equal", "restored", [])
    assert (second.result, second.method, second.differences) == ("equal", "same digest", [])
    assert first.restore_seconds is not None
    assert first.restore_seconds > 0
    assert record_of(nas, manifest).status == record_of(usb, manifest).status == "verified"


def test_unencrypted_backup_is_restored_equal(source_server: PostgresPeer, example: str, nas: DirectoryStore) -> None:
    manifest = capture(source_server, example, nas).manifest
    assert manifest.recipients == []
    assert {stored.name for stored in manifest.objects} == {"dump.pgc.zst", "globals.sql.zst"}
    (proof,) = verify(manifest, nas)
    assert (proof.result, proof.differences) == ("equal", [])


def test_backup_in_a_bucket_is_restored_equal(
    source_server: PostgresPeer, example: str, bucket_store: BackupStore, nas: DirectoryStore, key: Key
) -> None:
    result = capture(source_server, example, bucket_store, nas, options=key.options)
    assert manifest_bytes(bucket_store, result.manifest) == manifest_bytes(nas, result.manifest)
    proofs = verify(result.manifest, bucket_store, nas, identities=key.identities)
    assert [(proof.target, proof.result) for proof in proofs] == [("bucket", "equal"), ("nas", "equal")]


def test_server_globals_are_restored_equal(source_server: PostgresPeer, example: str, nas: DirectoryStore) -> None:
    result = capture_globals(connection_to(source_server), [Target(nas)], PLAIN)
    assert result.manifest.source == "main/@globals"
    assert {"postgres", "example_login", 'example rôle "x"'} <= set(result.manifest.evidence.roles)
    (proof,) = verify(result.manifest, nas)
    assert (proof.result, proof.differences) == ("equal", [])


@pytest.fixture(scope="module")
def odd_server() -> Iterator[PostgresPeer]:
    """A server of its own, as odd roles would go into every other test's backup."""
    with ExitStack() as stack:
        yield start_server(17, stack)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_name_is_carried_there_and_back(odd_server: PostgresPeer, name: str, nas: DirectoryStore) -> None:
    assert len(name.encode()) <= 63
    database = odd_server.create_database(name)
    quoted = sql.Identifier(name)
    with odd_server.connect() as connection:
        if name != "@globals":
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x' CONNECTION LIMIT 3").format(quoted))
        else:
            connection.execute(sql.SQL("CREATE ROLE {}").format(quoted))
        connection.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(quoted, name + "\n\\restrict\n--;'"))
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(quoted, quoted))
        connection.execute(sql.SQL("ALTER DATABASE {} SET search_path = {}, public").format(quoted, quoted))
        connection.execute(sql.SQL("ALTER DATABASE {} SET \"app.user\" = 'x: y=z'").format(quoted))
        connection.execute(sql.SQL("ALTER ROLE {} IN DATABASE {} SET work_mem = '7MB'").format(quoted, quoted))
        connection.execute(sql.SQL("GRANT ALL ON DATABASE {} TO {} WITH GRANT OPTION").format(quoted, quoted))
        connection.execute(sql.SQL("GRANT {} TO postgres").format(quoted))
    with database.connect() as connection:
        for statement in (
            "CREATE SCHEMA {n} AUTHORIZATION {n}",
            "CREATE TABLE {n}.{n} ({n} integer PRIMARY KEY, homelab_row text)",
            "ALTER TABLE {n}.{n} OWNER TO {n}",
            "INSERT INTO {n}.{n} VALUES (1, 'same'), (2, 'same')",
            "CREATE SEQUENCE {n}.s",
            "ALTER SEQUENCE {n}.s OWNER TO {n}",
            "ALTER SEQUENCE {n}.s OWNED BY {n}.{n}.{n}",
            "COMMENT ON TABLE {n}.{n} IS {t}",
        ):
            connection.execute(sql.SQL(statement).format(n=quoted, t=name))  # type: ignore[arg-type]
    manifest = capture(odd_server, name, nas).manifest
    assert Source.parse(manifest.source) == Source("main", name)
    assert [path.name for path in nas.root.iterdir()] == ["main"]
    assert [record.manifest.source for record in list_store(nas).backups] == [manifest.source]
    result = restore(odd_server, name, nas, manifest, replace=True)
    assert result.differences == []
    assert manifest.evidence.database is not None
    assert len(manifest.evidence.database.settings) == 2
    assert manifest.evidence.database.hidden_settings == ["app.user"]
    assert result.replaced is not None
    assert count(odd_server, name, "SELECT current_database()") == name
    odd_server.drop_database(result.replaced)


def test_roles_of_odd_names_are_restored_equal(odd_server: PostgresPeer, nas: DirectoryStore) -> None:
    with odd_server.connect() as connection:
        for name in ODD_NAMES:
            role = sql.Identifier(f"{name[:50]} role")
            connection.execute(sql.SQL("CREATE ROLE {} PASSWORD 'x' VALID UNTIL 'infinity'").format(role))
            connection.execute(sql.SQL("ALTER ROLE {} SET search_path = {}, public").format(role, role))
    manifest = capture(odd_server, odd_server.create_database(" last ").name, nas).manifest
    assert {f"{name[:50]} role" for name in ODD_NAMES} <= set(manifest.evidence.roles)
    (proof,) = verify(manifest, nas)
    assert (proof.result, proof.differences) == ("equal", [])


def test_grants_by_several_grantors_are_restored_to_the_same_effect(
    odd_server: PostgresPeer, nas: DirectoryStore
) -> None:
    """From 16 on a role that creates another is granted it twice: by the superuser, and by itself."""
    with odd_server.connect() as connection:
        for statement in (
            "CREATE ROLE maker CREATEROLE",
            "SET ROLE maker",
            "CREATE ROLE made",
            "GRANT made TO maker WITH SET TRUE, INHERIT FALSE",
            "RESET ROLE",
        ):
            connection.execute(statement.encode())
    manifest = capture_globals(connection_to(odd_server), [Target(nas)], PLAIN).manifest
    (proof,) = verify(manifest, nas)
    assert (proof.result, proof.differences) == ("equal", [])


def test_odd_server_name_is_one_folder(source_server: PostgresPeer, tiny: str, nas: DirectoryStore) -> None:
    manifest = capture(source_server, tiny, nas, name="../it's 🦉/@globals").manifest
    assert Source.parse(manifest.source) == Source("../it's 🦉/@globals", tiny)
    assert [path.name for path in nas.root.iterdir()] == ["%2E%2E%2Fit%27s%20%F0%9F%A6%89%2F%40globals"]
    assert listed(nas) == [manifest.id]


def test_empty_database_is_restored_equal(
    postgres_server: PostgresPeer, fresh_database: FreshDatabase, nas: DirectoryStore
) -> None:
    manifest = capture(postgres_server, fresh_database.name, nas).manifest
    assert manifest.evidence.tables == []
    (proof,) = verify(manifest, nas)
    assert (proof.result, proof.differences) == ("equal", [])


def test_empty_cluster_is_backed_up_and_restored(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = start_server(16, stack)
        connection = connection_to(server)
        store = directory_store(tmp_path / "nas")
        assert databases(connection) == ["postgres"]
        manifest = capture(server, "postgres", store).manifest
        everyone = capture_globals(connection, [Target(store)], PLAIN).manifest
        assert [proof.result for proof in verify(manifest, store)] == ["equal"]
        assert [proof.result for proof in verify(everyone, store)] == ["equal"]
        result = restore(server, "postgres", store, manifest, replace=True)
        assert result.replaced is not None
        assert databases(connection) == sorted(["postgres", result.replaced])


def test_equal_data_on_two_servers_gives_equal_evidence(nas: DirectoryStore) -> None:
    """What a restore is compared by depends on the data alone, not on the server it stands on."""
    manifests = []
    with ExitStack() as stack:
        for _ in range(2):
            server = start_server(18, stack)
            database = server.create_database("same")
            fill_example(database.dsn)
            manifests.append(capture(server, "same", nas).manifest)
    one, two = (manifest.evidence for manifest in manifests)
    assert one.objects == two.objects
    # uuids that the example draws at random make no difference: it gives each of them.
    assert [(table.name, table.rows, table.content_hash) for table in one.tables] == [
        (table.name, table.rows, table.content_hash) for table in two.tables
    ]
    assert one.sequences == two.sequences
