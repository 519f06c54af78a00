"""Which backups a store holds: every folder with a valid manifest, its proofs, and what its listing shows is wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from homelab_pipelines.backup.errors import BackupDamaged, BackupError, ObjectMissing
from homelab_pipelines.backup.layout import MANIFEST, PROOF_PREFIX, backup_folder, is_backup_id
from homelab_pipelines.backup.manifest import BackupRecord, Manifest, Proof
from homelab_pipelines.backup.stores.base import BackupStore, Listed, get

_READERS = 8  # small documents, mostly waiting: on a distant S3 store 600 manifests take seconds instead of a minute


@dataclass(frozen=True)
class Leftover:
    """A folder that is no backup: without a manifest (`unreadable` None), or with one that is not valid."""

    folder: str
    objects: list[Listed]
    unreadable: str | None

    @property
    def backup_id(self) -> str:
        """The id of the backup that it is not."""
        return self.folder.rpartition("/")[2]


@dataclass(frozen=True)
class Listing:
    """All that one store holds, oldest backup first."""

    backups: list[BackupRecord] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)


def list_store(store: BackupStore, source_id: str | None = None) -> Listing:
    """The backups of one source, or of all. Raises a store's error when it cannot be read."""
    folders: dict[str, list[Listed]] = defaultdict(list)
    for listed in store.scan(f"{source_id}/" if source_id else ""):
        parts = listed.key.split("/")
        if len(parts) == 4 and is_backup_id(parts[2]):
            folders["/".join(parts[:3])].append(listed)
    with ThreadPoolExecutor(_READERS, "read-manifest") as pool:
        found = list(pool.map(lambda item: _read(store, *item), sorted(folders.items())))
    return Listing(
        backups=sorted(
            (record for record in found if isinstance(record, BackupRecord)), key=lambda record: record.taken_at
        ),
        leftovers=[leftover for leftover in found if isinstance(leftover, Leftover)],
    )


def read_backup(store: BackupStore, source_id: str, backup_id: str) -> BackupRecord:
    """One backup. Raises ObjectMissing when it has no manifest, BackupDamaged when that is not valid."""
    folder = backup_folder(source_id, backup_id)
    objects = list(store.scan(f"{folder}/"))
    found = _read(store, folder, objects)
    if isinstance(found, BackupRecord):
        return found
    where = store.location(folder)
    if found.unreadable is None:
        raise ObjectMissing(f"reading {where}", "there is no manifest, so there is no backup", "homelab backups")
    raise unreadable(store, found)


def unreadable(store: BackupStore, leftover: Leftover) -> BackupDamaged:
    """What is to be said of a folder whose manifest is not valid."""
    return BackupDamaged(
        f"reading {store.location(leftover.folder)}/{MANIFEST}",
        leftover.unreadable or "it is missing",
        "restore from another copy or an older backup: homelab backups",
    )


def add_proof(store: BackupStore, proof: Proof, name: str) -> None:
    """Write a verification's result beside the manifest."""
    from homelab_pipelines.backup.stores.base import put

    put(store, f"{backup_folder(proof.source, proof.id)}/{name}", proof.to_bytes())


def newest(records: Iterable[BackupRecord]) -> BackupRecord | None:
    """The backup with the latest snapshot."""
    return max(records, key=lambda record: record.taken_at, default=None)


def _read(store: BackupStore, folder: str, objects: list[Listed]) -> BackupRecord | Leftover:
    sizes = {listed.key.rpartition("/")[2]: listed.bytes for listed in objects}
    if MANIFEST not in sizes:
        return Leftover(folder, objects, None)
    where = store.location(f"{folder}/{MANIFEST}")
    try:
        manifest = Manifest.from_bytes(get(store, f"{folder}/{MANIFEST}"), where)
        _check_place(manifest, folder, where)
    except (BackupDamaged, ObjectMissing) as error:
        return Leftover(folder, objects, error.why)
    proofs, unread = [], None
    for name in sorted(sizes):
        if not name.startswith(PROOF_PREFIX):
            continue
        try:
            proof = Proof.from_bytes(get(store, f"{folder}/{name}"), store.location(f"{folder}/{name}"))
            if (proof.source, proof.id) == (manifest.source, manifest.id):
                proofs.append(proof)
            else:
                unread = f"{name}: it is the proof of {proof.source} {proof.id}, not of this backup"
        except ObjectMissing:
            continue
        except BackupError as error:
            unread = f"{name}: {error.why}"
    return BackupRecord(
        target=store.name,
        location=store.location(folder),
        manifest=manifest,
        proofs=proofs,
        damage=_damage(manifest, sizes) or unread,
    )


def _check_place(manifest: Manifest, folder: str, where: str) -> None:
    if backup_folder(manifest.source, manifest.id) != folder:
        raise BackupDamaged(
            f"reading {where}", f"it is the manifest of {manifest.source} {manifest.id}, not of this folder", ""
        )


def _damage(manifest: Manifest, sizes: dict[str, int]) -> str | None:
    for stored in manifest.objects:
        if stored.name not in sizes:
            return f"{stored.name} is missing"
        if sizes[stored.name] != stored.bytes:
            return f"{stored.name} has {sizes[stored.name]} bytes, its manifest says {stored.bytes}"
    return None
