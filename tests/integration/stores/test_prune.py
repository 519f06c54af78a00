"""Pruning on real stores: what locks, failing stores and missing permissions leave, and that it is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from homelab_pipelines.backup.errors import BackupError, ObjectLocked, StoreRefused, StoreUnavailable
from homelab_pipelines.backup.layout import backup_folder, new_proof_name
from homelab_pipelines.backup.manifest import Manifest, Proof, StoredObject
from homelab_pipelines.backup.prune import Pruned, delete_backup, prune
from homelab_pipelines.backup.records import add_proof, list_store
from homelab_pipelines.backup.stores.base import BackupStore, put
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.inventory.backups import Keep
from homelab_pipelines.inventory.databases import History
from tests.integration.stores.conftest import Bench, s3_store
from tests.peers.faulty_store import Fault, FaultyStore
from tests.peers.s3 import S3Server
from tests.unit.backup.test_manifest import MANIFEST, NOW, PROOF

LATER = NOW + timedelta(days=30)
LONG = timedelta(hours=1)
# An object lock is over after a second or more: servers tell times in whole seconds.
SHORT = timedelta(seconds=2)


def backup(store: BackupStore, day: int, *, proof: bool = True) -> Manifest:
    """A proven backup with ten bytes in it, taken `day` days after the first."""
    taken_at = NOW + timedelta(days=day)
    manifest = MANIFEST.model_copy(
        update={
            "source": "main/app",
            "id": f"{taken_at:%Y%m%dT%H%M%SZ}-00000{day}",
            "taken_at": taken_at,
            "objects": [StoredObject(name="dump.pgc.zst", role="dump", bytes=10, sha256="a" * 64, content_bytes=30)],
        }
    )
    folder = backup_folder(manifest.source, manifest.id)
    put(store, f"{folder}/dump.pgc.zst", b"0123456789")
    put(store, f"{folder}/manifest.json", manifest.to_bytes())
    if proof:
        add_proof(store, proof_of(manifest), new_proof_name(taken_at))
    return manifest


def proof_of(manifest: Manifest) -> Proof:
    return PROOF.model_copy(update={"source": manifest.source, "id": manifest.id, "checked_at": manifest.taken_at})


def pruned(store: BackupStore, keep: Keep | None = None, **options: Any) -> Pruned:
    return prune(store, keep or Keep(last=1), {"main": History()}, ZoneInfo("UTC"), LONG, **{"now": LATER, **options})


def names(store: BackupStore, manifest: Manifest) -> list[str]:
    """What a backup's folder holds; of a proof `proof`."""
    keys = [each.key.rpartition("/")[2] for each in store.scan(f"{manifest.source}/{manifest.id}/")]
    return sorted("proof" if key.startswith("proof-") else key for key in keys)


class Failing(FaultyStore):
    """A store that fails to delete some keys, or to sweep."""

    def __init__(self, store: BackupStore, error: BackupError, *, at: str) -> None:
        super().__init__(store)
        self._error, self._at = error, at

    def delete(self, key: str) -> None:
        if self._at in key:
            raise self._error
        super().delete(key)

    def sweep(self, older_than: timedelta, now: datetime, dry_run: bool = False) -> list[str]:
        if self._at == "sweep":
            raise self._error
        return super().sweep(older_than, now, dry_run)


@pytest.fixture
def nas(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "nas", "nas")


@pytest.fixture
def locking(s3_server: S3Server) -> Iterator[str]:
    """The name of a bucket with object lock."""
    return s3_server.make_bucket(lock=True)


def when_unlocked(store: BackupStore, folder: str) -> None:
    """Delete a backup as soon as its lock has run out, or as much of it as goes."""
    deadline = time.monotonic() + 20
    while any(each.key.endswith("manifest.json") for each in store.scan(f"{folder}/")):
        assert time.monotonic() < deadline
        try:
            delete_backup(store, folder)
        except ObjectLocked:
            time.sleep(0.2)


@pytest.mark.s3
def test_proof_that_is_locked_for_longer_does_not_keep_the_data(s3_server: S3Server, locking: str) -> None:
    short, long = (s3_store(s3_server, locking, lock=lock) for lock in (SHORT, LONG))
    manifest = backup(short, 0, proof=False)
    add_proof(long, proof_of(manifest), new_proof_name(manifest.taken_at))
    when_unlocked(short, backup_folder(manifest.source, manifest.id))
    assert names(short, manifest) == ["proof"]
    # What is left of it stays until its lock has run out. That is as it should be: nobody has to be told.
    done = pruned(short, now=datetime.now(UTC) + timedelta(hours=2))
    assert done.faults == []
    assert len(done.refused) == 1
    assert "locked until" in done.refused[0]
    assert names(short, manifest) == ["proof"]


@pytest.mark.s3
def test_manifest_that_is_locked_keeps_everything(s3_server: S3Server, locking: str) -> None:
    """Data that could go stays as long as its manifest does: a backup is whole, or it is none."""
    plain, long = s3_store(s3_server, locking), s3_store(s3_server, locking, lock=LONG)
    older = backup(plain, 0)
    folder = backup_folder(older.source, older.id)
    put(long, f"{folder}/manifest.json", older.to_bytes())
    newer = backup(plain, 1)
    done = pruned(plain)
    assert (done.deleted, done.faults) == ({}, [])
    assert len(done.refused) == 1
    assert "locked until" in done.refused[0]
    assert names(plain, older) == ["dump.pgc.zst", "manifest.json", "proof"]
    assert [record.damage for record in list_store(plain).backups] == [None, None]
    assert names(plain, newer) == ["dump.pgc.zst", "manifest.json", "proof"]


@pytest.mark.parametrize("error", [StoreRefused, StoreUnavailable])
def test_manifest_that_cannot_be_deleted_keeps_everything(nas: DirectoryStore, error: type[BackupError]) -> None:
    older, _ = backup(nas, 0), backup(nas, 1)
    done = pruned(Failing(nas, error("deleting it", "the test asked for this", "see dmesg"), at="manifest.json"))
    assert done.deleted == {}
    assert [line for line in (*done.refused, *done.faults) if "the test asked for this" in line]
    assert names(nas, older) == ["dump.pgc.zst", "manifest.json", "proof"]


def test_deletion_cut_short_leaves_no_backup_and_is_finished_by_the_next(nas: DirectoryStore) -> None:
    older, _ = backup(nas, 0), backup(nas, 1)
    failing = Failing(nas, StoreUnavailable("deleting it", "the disk reports an error", "see dmesg"), at="dump.")
    done = pruned(failing)
    assert done.deleted == {}
    assert names(nas, older) == ["dump.pgc.zst", "proof"]
    assert len(list_store(nas).backups) == 1
    done = pruned(nas, now=datetime.now(UTC) + timedelta(hours=2))
    assert len(done.swept) == 1
    assert "it has no manifest" in done.swept[0]
    assert names(nas, older) == []


@pytest.mark.parametrize("error", [StoreRefused, StoreUnavailable])
def test_sweep_that_fails_keeps_the_report_of_what_was_deleted(nas: DirectoryStore, error: type[BackupError]) -> None:
    older, newer = backup(nas, 0), backup(nas, 1)
    done = pruned(Failing(nas, error("sweeping nas", "access denied", "allow ListBucketMultipartUploads"), at="sweep"))
    assert done.deleted == {"main/app": [older.id]}
    assert done.bytes_freed == 10
    (fault,) = done.faults
    assert "sweeping nas: access denied" in fault
    assert "Next: allow ListBucketMultipartUploads" in fault
    assert fault in done.alerts
    assert [record.manifest.id for record in list_store(nas).backups] == [newer.id]


def test_store_that_fails_in_the_middle_keeps_the_report_of_what_was_deleted(nas: DirectoryStore) -> None:
    first, second, _ = backup(nas, 0), backup(nas, 1), backup(nas, 2)
    unavailable = StoreUnavailable("deleting it", "the server failed", "start the server")
    done = pruned(Failing(nas, unavailable, at=second.id))
    assert done.deleted == {"main/app": [first.id]}
    (fault,) = done.faults
    assert "the server failed" in fault
    assert "Next: start the server" in fault


def test_dry_run_tells_all_that_a_run_would_sweep_and_removes_nothing(bench: Bench) -> None:
    store = bench.store
    backup(store, 0)
    backup(store, 1)
    put(store, "main/app/20261101T020003Z-ffffff/dump.pgc.zst", b"without a manifest")
    writer = store.writer("main/app/20261102T020003Z-ffffff/dump.pgc.zst")
    writer.write(bytes(20 << 20))
    later = datetime.now(UTC) + timedelta(hours=2)
    before, begun = sorted(each.key for each in store.scan()), bench.leftovers()
    foretold = pruned(store, now=later, dry_run=True)
    assert (sorted(each.key for each in store.scan()), bench.leftovers()) == (before, begun)
    assert len(begun) == 1
    assert len(foretold.swept) == 2
    assert any("20261101T020003Z-ffffff" in line for line in foretold.swept)
    assert any("20261102T020003Z-ffffff" in line for line in foretold.swept)
    done = pruned(store, now=later)
    assert (done.swept, done.deleted, done.bytes_freed) == (foretold.swept, foretold.deleted, foretold.bytes_freed)
    assert bench.leftovers() == []
    writer.abort()


def test_dry_run_tells_of_empty_folders_that_would_go(nas: DirectoryStore) -> None:
    put(nas, "main/app/20261101T020003Z-ffffff/dump.pgc.zst", b"x")
    (nas.root / "old/empty").mkdir(parents=True)
    (nas.root / "main/empty").mkdir()
    later = datetime.now(UTC) + timedelta(hours=2)
    foretold = nas.sweep(LONG, later, dry_run=True)
    assert (nas.root / "old/empty").is_dir()
    assert nas.sweep(LONG, later) == foretold
    assert sorted(foretold) == sorted(f"the empty folder {nas.root / name}" for name in ("old/empty", "main/empty"))
    assert sorted(each.name for each in nas.root.iterdir()) == ["main"]


def test_backup_that_cannot_be_read_is_kept_and_told_and_the_others_are_pruned(nas: DirectoryStore) -> None:
    manifests = [backup(nas, day) for day in range(4)]
    failing = FaultyStore(nas, Fault("error", on="read", keys=f"*/{manifests[1].id}/manifest.json", times=9))
    done = pruned(failing)
    assert done.deleted == {"main/app": [manifests[0].id, manifests[2].id]}
    (alert,) = done.alerts
    assert str(nas.root / "main/app" / manifests[1].id) in alert
    assert "it cannot be read: the test asked for this error; it is kept" in alert
    assert [record.manifest.id for record in list_store(nas).backups] == [manifests[1].id, manifests[3].id]


def test_proof_that_cannot_be_read_now_is_no_reason_to_prune_its_backup(nas: DirectoryStore) -> None:
    manifests = [backup(nas, day) for day in range(3)]
    failing = FaultyStore(nas, Fault("error", on="read", keys=f"*/{manifests[0].id}/proof-*", times=9))
    done = pruned(failing, Keep(daily=9))
    assert done.deleted == {}
    (alert,) = done.alerts
    assert "it cannot be read: proof-" in alert
    assert len(list_store(nas).backups) == 3
