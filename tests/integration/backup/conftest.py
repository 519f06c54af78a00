"""A source server, the stores its backups go to, and the calls of the engine with the settings that tests want."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyrage
import pytest

from homelab_pipelines.backup.capture import CaptureOptions, CaptureResult, capture_database
from homelab_pipelines.backup.connection import Connection, Direct
from homelab_pipelines.backup.fan_out import Target
from homelab_pipelines.backup.layout import backup_folder
from homelab_pipelines.backup.manifest import BackupRecord, Manifest, Proof
from homelab_pipelines.backup.pipeline import Encoding
from homelab_pipelines.backup.records import list_store, read_backup
from homelab_pipelines.backup.restore import RestoreResult, restore_database
from homelab_pipelines.backup.restored_copy import RestoreOptions
from homelab_pipelines.backup.stores.base import BackupStore
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.backup.unpack import parse_identities
from homelab_pipelines.backup.verify import ScratchChoice, verify_backup
from tests.integration.stores.conftest import s3_store
from tests.peers.postgres import PostgresPeer, fill_example, server_of
from tests.peers.s3 import S3Server

PLAIN = CaptureOptions(Encoding(zstd_level=1))


@dataclass(frozen=True)
class Key:
    """An age key: `secret` is the identity's text, `recipient` what backups are encrypted to."""

    secret: str
    recipient: str

    @property
    def identities(self) -> list[Any]:
        return parse_identities(self.secret)

    @property
    def options(self) -> CaptureOptions:
        return encrypted_to(self)


def new_key() -> Key:
    identity = pyrage.x25519.Identity.generate()
    return Key(str(identity), str(identity.to_public()))


def encrypted_to(*keys: Key) -> CaptureOptions:
    return CaptureOptions(Encoding(zstd_level=1, recipients=tuple(key.recipient for key in keys)))


def connection_to(peer: PostgresPeer, name: str = "main", **changes: Any) -> Connection:
    """The superuser's connection to a test server through TCP, with its password."""
    place = Direct(peer.host, peer.port, sslmode="disable")
    return replace(Connection(name, place, user=peer.user, password=peer.password), **changes)


def directory_store(folder: Path, name: str | None = None) -> DirectoryStore:
    folder.mkdir(parents=True, exist_ok=True)
    return DirectoryStore(folder, name or folder.name)


def capture(
    peer: PostgresPeer, database: str, *stores: BackupStore, options: CaptureOptions = PLAIN, **changes: Any
) -> CaptureResult:
    """Back up a database of a test server to these stores; `changes` replace parts of the connection."""
    targets = [Target(store) for store in stores]
    return capture_database(connection_to(peer, **changes), database, targets, options)


def record_of(store: BackupStore, manifest: Manifest) -> BackupRecord:
    return read_backup(store, manifest.source, manifest.id)


def verify(manifest: Manifest, *stores: BackupStore, identities: Sequence[Any] = ()) -> list[Proof]:
    """Prove one backup on all of these stores."""
    copies: Mapping[str, tuple[BackupStore, BackupRecord]] = {
        store.name: (store, record_of(store, manifest)) for store in stores
    }
    return verify_backup(copies, identities, ScratchChoice())


def restore(
    peer: PostgresPeer,
    name: str,
    store: BackupStore,
    manifest: Manifest,
    identities: Sequence[Any] = (),
    **options: Any,
) -> RestoreResult:
    """Restore one backup as database `name` of a test server."""
    record = record_of(store, manifest)
    return restore_database(connection_to(peer), name, store, record, identities, RestoreOptions(**options))


def path_of(store: DirectoryStore, manifest: Manifest, name: str) -> Path:
    """The file of one object of a backup."""
    return store.root / backup_folder(manifest.source, manifest.id) / name


def listed(store: BackupStore) -> list[str]:
    """The ids of the backups that a store shows."""
    return [record.manifest.id for record in list_store(store).backups]


def databases_of(peer: PostgresPeer) -> set[str]:
    with peer.connect() as connection:
        return {row[0] for row in connection.execute("SELECT datname FROM pg_database")}


def count(peer: PostgresPeer, database: str, query: str) -> Any:
    """The first value of the first row."""
    with peer.connect(database) as connection:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


@contextlib.contextmanager
def databases_kept(peer: PostgresPeer) -> Iterator[None]:
    """What is done inside leaves neither a new database nor a missing one."""
    before = databases_of(peer)
    yield
    assert databases_of(peer) == before


@pytest.fixture(scope="session")
def key() -> Key:
    """An age key of this session."""
    return new_key()


@pytest.fixture(scope="session")
def source_server() -> PostgresPeer:
    """PostgreSQL 15, the server that most tests back up: the one every Debian 12 machine has."""
    return server_of(15)


@pytest.fixture(scope="module")
def example(source_server: PostgresPeer) -> Iterator[str]:
    """The name of a database with one of everything on `source_server`, for tests that only read it."""
    database = source_server.create_database()
    fill_example(database.dsn)
    yield database.name
    source_server.drop_database(database.name)


@pytest.fixture(scope="module")
def tiny(source_server: PostgresPeer) -> Iterator[str]:
    """The name of a database with one table of 1000 rows on `source_server`, for tests that only read it."""
    database = source_server.create_database()
    with database.connect() as connection:
        connection.execute("CREATE TABLE item AS SELECT n, md5(n::text) AS word FROM generate_series(1, 1000) AS n")
    yield database.name
    source_server.drop_database(database.name)


@pytest.fixture
def nas(tmp_path: Path) -> DirectoryStore:
    """An empty directory store named nas."""
    return directory_store(tmp_path / "nas")


@pytest.fixture
def usb(tmp_path: Path) -> DirectoryStore:
    """A second, empty directory store, named usb."""
    return directory_store(tmp_path / "usb")


@pytest.fixture
def new_name(source_server: PostgresPeer) -> Iterator[str]:
    """A name no database of `source_server` has; one that has it afterwards is dropped."""
    database = source_server.create_database()
    source_server.drop_database(database.name)
    yield database.name
    source_server.drop_database(database.name)


@pytest.fixture
def impatient() -> CaptureOptions:
    """Options that wait one second for a lock."""
    return replace(PLAIN, lock_wait=timedelta(seconds=1))


@pytest.fixture
def bucket_store(s3_server: S3Server, s3_bucket: str) -> BackupStore:
    """An empty bucket of a real S3 server, named bucket."""
    return s3_store(s3_server, s3_bucket)
