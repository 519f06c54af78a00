"""Damage of what is stored: verify reports it with its cause, restore refuses with that cause and touches nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from homelab_pipelines.backup.errors import BackupDamaged, BackupError, ObjectMissing
from homelab_pipelines.backup.layout import backup_folder
from homelab_pipelines.backup.local_server import scratch_server
from homelab_pipelines.backup.manifest import Manifest
from homelab_pipelines.backup.programs import server_for
from homelab_pipelines.backup.records import list_store
from homelab_pipelines.backup.stores.base import BackupStore, get, put
from homelab_pipelines.backup.stores.directory import DirectoryStore
from tests.integration.backup.conftest import (
    Key,
    capture,
    count,
    databases_kept,
    directory_store,
    listed,
    path_of,
    record_of,
    restore,
    verify,
)
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.postgres

DUMP, GLOBALS, MANIFEST = "dump.pgc.zst.age", "globals.sql.zst.age", "manifest.json"


@dataclass(frozen=True)
class Pair:
    """Two backups of one database, encrypted, with a proof each, in a folder that tests copy."""

    server: PostgresPeer
    folder: Path
    first: Manifest
    second: Manifest
    key: Key

    def verify(self, store: BackupStore) -> Any:
        (proof,) = verify(self.first, store, identities=self.key.identities)
        return proof

    def restore(self, store: BackupStore, name: str = "victim") -> None:
        restore(self.server, name, store, self.first, self.key.identities, replace=True)


@pytest.fixture(scope="module")
def pair(source_server: PostgresPeer, tiny: str, tmp_path_factory: pytest.TempPathFactory, key: Key) -> Iterator[Pair]:
    store = directory_store(tmp_path_factory.mktemp("pair") / "nas")
    first = capture(source_server, tiny, store, options=key.options).manifest
    second = capture(source_server, tiny, store, options=key.options).manifest
    for manifest in (first, second):
        (proof,) = verify(manifest, store, identities=key.identities)
        assert proof.result == "equal"
    victim = source_server.create_database("victim")
    with victim.connect() as connection:
        connection.execute("CREATE TABLE old AS SELECT 42 AS answer")
    yield Pair(source_server, store.root, first, second, key)
    source_server.drop_database("victim")


@pytest.fixture
def store(pair: Pair, tmp_path: Path) -> DirectoryStore:
    """A copy of both backups."""
    shutil.copytree(pair.folder, tmp_path / "nas")
    return DirectoryStore(tmp_path / "nas", "nas")


def expect_refused(pair: Pair, store: BackupStore, cause: str, error: type[BackupError] = BackupDamaged) -> None:
    """Restore refuses with the cause, and the server is as it was."""
    with databases_kept(pair.server), pytest.raises(error) as caught:
        pair.restore(store)
    assert cause in str(caught.value), str(caught.value)
    assert count(pair.server, "victim", "SELECT answer FROM old") == 42


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flipped(at: float) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[min(int(len(data) * at), len(data) - 1)] ^= 4
        path.write_bytes(data)

    flip.__name__ = f"flip at {at}"
    return flip


@pytest.mark.parametrize("name", [DUMP, GLOBALS])
@pytest.mark.parametrize("damage", [cut, empty, lengthened], ids=lambda damage: damage.__name__)
def test_object_of_another_size_is_seen_in_the_listing(
    pair: Pair, store: DirectoryStore, name: str, damage: Callable[[Path], None]
) -> None:
    path = path_of(store, pair.first, name)
    size = path.stat().st_size
    damage(path)
    cause = f"{name} has {path.stat().st_size} bytes, its manifest says {size}"
    assert record_of(store, pair.first).damage == cause
    assert record_of(store, pair.first).status == "failed"
    proof = pair.verify(store)
    assert proof.result == "damaged"
    assert cause in " ".join(proof.differences)
    expect_refused(pair, store, cause)


@pytest.mark.parametrize("name", [DUMP, GLOBALS])
def test_missing_object_is_seen_in_the_listing(pair: Pair, store: DirectoryStore, name: str) -> None:
    path_of(store, pair.first, name).unlink()
    proof = pair.verify(store)
    assert proof.result == "damaged"
    assert f"{name} is missing" in " ".join(proof.differences)
    expect_refused(pair, store, f"{name} is missing")


@pytest.mark.parametrize("name", [DUMP, GLOBALS])
@pytest.mark.parametrize("at", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_one_flipped_bit_is_found(pair: Pair, store: DirectoryStore, name: str, at: float) -> None:
    path = path_of(store, pair.first, name)
    flipped(at)(path)
    cause = f"its SHA-256 is {hashlib.sha256(path.read_bytes()).hexdigest()}, its manifest says"
    assert record_of(store, pair.first).damage is None  # a listing does not read it
    expect_refused(pair, store, cause)
    if at == 0.5:
        proof = pair.verify(store)
        assert proof.result == "damaged"
        assert cause in " ".join(proof.differences)
        assert str(path) in " ".join(proof.differences)
        assert record_of(store, pair.first).status == "failed"


@pytest.mark.parametrize("name", [DUMP, GLOBALS])
def test_object_of_another_backup_is_found(pair: Pair, store: DirectoryStore, name: str) -> None:
    mine, others = path_of(store, pair.first, name), path_of(store, pair.second, name)
    shutil.copy(others, mine)
    proof = pair.verify(store)
    assert proof.result == "damaged"
    text = " ".join(proof.differences)
    assert "its manifest says" in text
    assert name in text
    expect_refused(pair, store, "its manifest says")


def test_damaged_copy_is_reported_and_the_good_one_still_verified(
    pair: Pair, store: DirectoryStore, tmp_path: Path
) -> None:
    shutil.copytree(pair.folder, tmp_path / "usb")
    usb = DirectoryStore(tmp_path / "usb", "usb")
    flipped(0.5)(path_of(store, pair.first, DUMP))
    for order in ((store, usb), (usb, store)):
        proofs = {proof.target: proof for proof in verify(pair.first, *order, identities=pair.key.identities)}
        assert proofs["nas"].result == "damaged"
        assert proofs["usb"].result == "equal"
    assert record_of(store, pair.first).status == "failed"
    assert record_of(usb, pair.first).status == "verified"
    assert listed(store) == listed(usb) == [pair.first.id, pair.second.id]


def test_missing_manifest_is_no_backup(pair: Pair, store: DirectoryStore) -> None:
    path_of(store, pair.first, MANIFEST).unlink()
    assert listed(store) == [pair.second.id]
    expect_refused(pair, store, "there is no manifest, so there is no backup", ObjectMissing)


@pytest.mark.parametrize(
    "damage",
    [cut, empty, flipped(0.0), flipped(0.3), flipped(0.6), flipped(1.0)],
    ids=lambda damage: damage.__name__,
)
def test_damaged_manifest_is_no_backup(pair: Pair, store: DirectoryStore, damage: Callable[[Path], None]) -> None:
    path = path_of(store, pair.first, MANIFEST)
    whole = path.read_bytes()
    if damage is cut:
        path.write_bytes(whole[: len(whole) // 2])
    else:
        damage(path)
    if damage.__name__ == "flip at 1.0":  # the line's end after the document; nothing of the document is changed
        path.write_bytes(whole[:-2] + b"]\n")
    assert listed(store) == [pair.second.id]
    (leftover,) = list_store(store).leftovers
    assert leftover.folder == backup_folder(pair.first.source, pair.first.id)
    assert leftover.unreadable
    expect_refused(pair, store, leftover.unreadable)


def test_manifest_of_another_backup_is_no_backup(pair: Pair, store: DirectoryStore) -> None:
    shutil.copy(path_of(store, pair.second, MANIFEST), path_of(store, pair.first, MANIFEST))
    assert listed(store) == [pair.second.id]
    expect_refused(pair, store, f"it is the manifest of {pair.second.source} {pair.second.id}, not of this folder")


def test_every_field_of_a_manifest_is_guarded(pair: Pair, store: DirectoryStore) -> None:
    path = path_of(store, pair.first, MANIFEST)
    fields = json.loads(path.read_bytes())
    assert set(fields) == {*Manifest.model_fields, "digest"}
    for name in fields:
        path.write_text(json.dumps({key: value for key, value in fields.items() if key != name}))
        assert listed(store) == [pair.second.id], f"{name} left out"
        path.write_text(json.dumps({**fields, name: _other(fields[name])}))
        assert listed(store) == [pair.second.id], f"{name} altered"
    path.write_text(json.dumps({**fields, "more": 1}))
    assert listed(store) == [pair.second.id]
    path.write_text(json.dumps({**fields, "evidence": {**fields["evidence"], "tables": []}}))
    expect_refused(pair, store, "its digest does not fit its contents: it was altered after it was written")


def _other(value: Any) -> Any:
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, int):
        return value + 1
    if isinstance(value, list):
        return [*value, value[0] if value else "x"]
    return {**value, "x": "x"} if isinstance(value, dict) else "x"


@pytest.mark.parametrize("damage", [cut, empty, flipped(0.5)], ids=lambda damage: damage.__name__)
def test_damaged_proof_proves_nothing(pair: Pair, store: DirectoryStore, damage: Callable[[Path], None]) -> None:
    (path,) = path_of(store, pair.first, MANIFEST).parent.glob("proof-*.json")
    if damage is cut:
        path.write_bytes(path.read_bytes()[:-5])
    else:
        damage(path)
    record = record_of(store, pair.first)
    assert record.status == "failed"
    assert record.damage is not None
    assert record.damage.startswith(f"{path.name}: ")
    proof = pair.verify(store)
    assert proof.result == "damaged"
    assert path.name in " ".join(proof.differences)
    expect_refused(pair, store, path.name)


def test_proof_of_another_backup_proves_nothing(pair: Pair, store: DirectoryStore) -> None:
    (mine,) = path_of(store, pair.first, MANIFEST).parent.glob("proof-*.json")
    (others,) = path_of(store, pair.second, MANIFEST).parent.glob("proof-*.json")
    shutil.copy(others, mine)
    record = record_of(store, pair.first)
    assert record.proofs == []
    assert record.damage == f"{mine.name}: it is the proof of {pair.second.source} {pair.second.id}, not of this backup"
    assert record.status == "failed"


def test_missing_proof_leaves_a_backup_unverified(pair: Pair, store: DirectoryStore) -> None:
    (path,) = path_of(store, pair.first, MANIFEST).parent.glob("proof-*.json")
    path.unlink()
    assert record_of(store, pair.first).status == "unverified"


@pytest.mark.s3
def test_damage_in_a_bucket_is_found(pair: Pair, bucket_store: BackupStore) -> None:
    folder = backup_folder(pair.first.source, pair.first.id)
    whole = {name: (pair.folder / folder / name).read_bytes() for name in (DUMP, GLOBALS, MANIFEST)}

    def stored_as(changed: dict[str, bytes]) -> BackupStore:
        for name, data in {**whole, **changed}.items():
            put(bucket_store, f"{folder}/{name}", data)
        return bucket_store

    assert pair.verify(stored_as({})).result == "equal"
    middle = len(whole[DUMP]) // 2
    bent = whole[DUMP][:middle] + bytes([whole[DUMP][middle] ^ 1]) + whole[DUMP][middle + 1 :]
    for name, data, cause in (
        (DUMP, bent, "its SHA-256 is"),
        (DUMP, whole[DUMP][:-1], f"has {len(bent) - 1} bytes, its manifest says {len(bent)}"),
        (GLOBALS, whole[DUMP], "bytes, its manifest says"),
    ):
        damaged = stored_as({name: data})
        proof = pair.verify(damaged)
        assert proof.result == "damaged"
        assert cause in " ".join(proof.differences)
        expect_refused(pair, damaged, cause)
    stored_as({}).delete(f"{folder}/{DUMP}")
    expect_refused(pair, bucket_store, f"{DUMP} is missing")
    stored_as({MANIFEST: whole[MANIFEST][:-30]})
    assert list_store(bucket_store).backups == []
    expect_refused(pair, bucket_store, "not a complete JSON document")
    assert get(bucket_store, f"{folder}/{GLOBALS}") == whole[GLOBALS]


def test_restore_of_damage_into_a_bare_server_makes_nothing(pair: Pair, store: DirectoryStore) -> None:
    """Not even the roles are made before the whole dump was read."""
    flipped(0.5)(path_of(store, pair.first, DUMP))
    with scratch_server(server_for(15)) as server:
        bare = PostgresPeer(server, "", host=str(server.socket_dir), user=server.user)
        before = count(bare, "postgres", "SELECT count(*) FROM pg_roles")
        with databases_kept(bare), pytest.raises(BackupDamaged):
            restore(bare, "fresh", store, pair.first, pair.key.identities)
        assert count(bare, "postgres", "SELECT count(*) FROM pg_roles") == before
