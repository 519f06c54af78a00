"""What a store's listing becomes: backups in the order of their snapshots, and folders that are none."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from homelab_pipelines.backup.errors import BackupDamaged, ObjectMissing, StoreUnavailable
from homelab_pipelines.backup.layout import backup_folder, new_proof_name
from homelab_pipelines.backup.manifest import Manifest, StoredObject
from homelab_pipelines.backup.records import add_proof, list_store, newest, read_backup
from homelab_pipelines.backup.stores.base import Listed, put
from homelab_pipelines.backup.stores.directory import DirectoryStore
from tests.peers.faulty_store import Fault, FaultyStore
from tests.unit.backup.test_manifest import MANIFEST, NOW, PROOF


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path, "nas")


def backup(store: DirectoryStore, number: int, source: str = "main/app", data: bytes = b"0123456789") -> Manifest:
    """A backup with ten bytes in it, taken `number` days after the first; ids do not sort as the times do."""
    manifest = MANIFEST.model_copy(
        update={
            "source": source,
            "id": f"20261123T02000{9 - number}Z-00000{number}",
            "taken_at": NOW + timedelta(days=number),
            "objects": [StoredObject(name="dump.pgc.zst", role="dump", bytes=10, sha256="a" * 64, content_bytes=30)],
        }
    )
    folder = backup_folder(source, manifest.id)
    put(store, f"{folder}/dump.pgc.zst", data)
    put(store, f"{folder}/manifest.json", manifest.to_bytes())
    return manifest


def test_backups_are_listed_by_the_time_of_their_snapshot(store: DirectoryStore) -> None:
    taken = [backup(store, number) for number in (2, 0, 1)]
    listing = list_store(store)
    assert [record.manifest for record in listing.backups] == sorted(taken, key=lambda manifest: manifest.taken_at)
    assert listing.leftovers == []
    last = newest(listing.backups)
    assert last is not None
    assert last.manifest == taken[0]
    assert newest([]) is None


def test_one_source_is_listed_alone(store: DirectoryStore) -> None:
    mine = backup(store, 0, "main/app")
    backup(store, 1, "main/app2")
    backup(store, 2, "main/@globals")
    assert [record.manifest for record in list_store(store, "main/app").backups] == [mine]
    assert len(list_store(store).backups) == 3


def test_what_is_no_backup_is_a_leftover_or_nothing(store: DirectoryStore) -> None:
    put(store, "main/app/20261123T020003Z-1a2b3c/dump.pgc.zst", b"no manifest")
    put(store, "main/app/20261123T020004Z-1a2b3c/manifest.json", b"{}")
    put(store, "main/app/notes.txt", b"a person's own file")
    put(store, "main/app/old/manifest.json", b"not a backup's folder")
    put(store, "readme.txt", b"another")
    listing = list_store(store)
    assert listing.backups == []
    assert [(each.folder[-22:], each.unreadable is None) for each in listing.leftovers] == [
        ("20261123T020003Z-1a2b3c"[-22:], True),
        ("20261123T020004Z-1a2b3c"[-22:], False),
    ]
    with pytest.raises(ObjectMissing, match="there is no manifest"):
        read_backup(store, "main/app", "20261123T020003Z-1a2b3c")
    with pytest.raises(BackupDamaged, match="not a complete JSON document"):
        read_backup(store, "main/app", "20261123T020004Z-1a2b3c")
    with pytest.raises(ObjectMissing):
        read_backup(store, "main/app", "20261123T020009Z-1a2b3c")


@pytest.mark.parametrize(
    ("data", "damage"),
    [(b"0123456789", None), (b"", "dump.pgc.zst has 0 bytes, its manifest says 10"), (b"x" * 11, "has 11 bytes")],
)
def test_size_is_compared_with_the_manifest(store: DirectoryStore, data: bytes, damage: str | None) -> None:
    backup(store, 0, data=data)
    (record,) = list_store(store).backups
    assert (record.damage or "").endswith(damage or "") if damage is None else damage in str(record.damage)


def test_proofs_are_read_beside_the_manifest(store: DirectoryStore) -> None:
    manifest = backup(store, 0)
    for day, result in enumerate(["different", "equal"]):
        checked_at = NOW + timedelta(days=day)
        proof = PROOF.model_copy(
            update={"source": manifest.source, "id": manifest.id, "result": result, "checked_at": checked_at}
        )
        add_proof(store, proof, new_proof_name(checked_at))
    record = read_backup(store, manifest.source, manifest.id)
    assert [proof.result for proof in record.proofs] == ["different", "equal"]
    assert record.status == "verified"


def test_manifest_that_cannot_be_read_hides_no_other_backup(store: DirectoryStore) -> None:
    manifests = [backup(store, number) for number in range(3)]
    failing = FaultyStore(store, Fault("error", on="read", keys=f"*/{manifests[1].id}/manifest.json", times=9))
    listing = list_store(failing)
    assert [record.manifest for record in listing.backups] == [manifests[0], manifests[2]]
    (leftover,) = listing.leftovers
    assert leftover.folder == backup_folder("main/app", manifests[1].id)
    assert leftover.reason == "it cannot be read: the test asked for this error"
    assert isinstance(leftover.error, StoreUnavailable)
    with pytest.raises(StoreUnavailable, match="the test asked for this error"):
        read_backup(failing, "main/app", manifests[1].id)


def test_store_that_gives_no_manifest_fails_the_listing(store: DirectoryStore) -> None:
    for number in range(3):
        backup(store, number)
    with pytest.raises(StoreUnavailable, match="the test asked for this error"):
        list_store(FaultyStore(store, Fault("error", on="read", keys="*/manifest.json", times=9)))


def test_store_that_stops_answering_in_the_middle_fails_the_listing(store: DirectoryStore) -> None:
    for number in range(3):
        backup(store, number)

    class Leaving(FaultyStore):
        scans = 0

        def scan(self, prefix: str = "") -> Iterator[Listed]:
            self.scans += 1
            if self.scans > 1:
                raise StoreUnavailable("listing nas", "the server cannot be reached", "start it")
            return super().scan(prefix)

    leaving = Leaving(store, Fault("error", on="read", keys="*/manifest.json"))
    with pytest.raises(StoreUnavailable, match="the server cannot be reached"):
        list_store(leaving)
