"""Carrying out retention plans, and clearing away what killed runs left behind. Every deletion has its reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from homelab_pipelines.backup.errors import BackupError, StoreRefused
from homelab_pipelines.backup.layout import ID_TIME, MANIFEST, PROOF_PREFIX, Source, backup_folder
from homelab_pipelines.backup.manifest import BackupRecord
from homelab_pipelines.backup.records import Leftover, list_store
from homelab_pipelines.backup.retention import RetentionPlan, plan_retention
from homelab_pipelines.backup.stores.base import BackupStore
from homelab_pipelines.inventory.backups import Keep
from homelab_pipelines.inventory.databases import History


@dataclass(frozen=True)
class Pruned:
    """What was done on one target: a plan for each source, the ids deleted, and what could not be (locked, refused)."""

    plans: dict[str, RetentionPlan] = field(default_factory=dict)
    deleted: dict[str, list[str]] = field(default_factory=dict)
    bytes_freed: int = 0
    refused: list[str] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def alerts(self) -> list[str]:
        """What a person has to be told."""
        return [alert for plan in self.plans.values() for alert in plan.alerts] + self.unreadable


def prune(
    store: BackupStore,
    keep: Keep | None,
    limits: Mapping[str, History],
    timezone: ZoneInfo,
    grace: timedelta,
    now: datetime | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Apply the retention policy to every source of one store, and sweep leftovers older than `grace`.

    `limits` has a server's history limits by its name; a server that the inventory no longer names is left alone by
    retention, for nothing new proves its backups. Raises a store's error when the store cannot be read.
    """
    moment = now or datetime.now(UTC)
    listing = list_store(store)
    by_source: dict[str, list[BackupRecord]] = defaultdict(list)
    for record in listing.backups:
        by_source[record.manifest.source].append(record)
    plans: dict[str, RetentionPlan] = {}
    deleted: dict[str, list[str]] = {}
    refused: list[str] = []
    freed = 0
    for source_id, records in sorted(by_source.items()):
        known = limits.get(Source.parse(source_id).server)
        plan = plan_retention(records, keep if known is not None else None, known or History(), moment, timezone)
        plans[source_id] = plan
        sizes = {record.manifest.id: record.manifest.bytes for record in records}
        for backup_id in plan.dropped:
            try:
                if not dry_run:
                    delete_backup(store, backup_folder(source_id, backup_id))
            except StoreRefused as error:
                refused.append(f"{source_id} {backup_id}: {error.why}")
                continue
            deleted.setdefault(source_id, []).append(backup_id)
            freed += sizes[backup_id]
    swept, unreadable = _sweep_leftovers(store, listing.leftovers, by_source, grace, moment, dry_run)
    if not dry_run:
        swept += store.sweep(grace, moment)
    return Pruned(plans, deleted, freed, refused, swept, unreadable)


def delete_backup(store: BackupStore, folder: str) -> None:
    """Remove a backup: its manifest first, so that a deletion cut short leaves no backup that looks whole."""
    keys = sorted(
        (listed.key for listed in store.scan(f"{folder}/")),
        key=lambda key: (not key.endswith(f"/{MANIFEST}"), f"/{PROOF_PREFIX}" not in key, key),
    )
    for key in keys:
        store.delete(key)


def sweep(store: BackupStore, grace: timedelta, now: datetime | None = None) -> list[str]:
    """Clear away unfinished writes and folders that never became backups, older than `grace`; a line for each.

    A folder whose manifest is there but not valid may still hold somebody's only data: it goes only when a newer backup
    of the same source on the same store is verified.
    """
    moment = now or datetime.now(UTC)
    listing = list_store(store)
    by_source: dict[str, list[BackupRecord]] = defaultdict(list)
    for record in listing.backups:
        by_source[record.manifest.source].append(record)
    swept, _ = _sweep_leftovers(store, listing.leftovers, by_source, grace, moment, dry_run=False)
    return swept + store.sweep(grace, moment)


def _sweep_leftovers(
    store: BackupStore,
    leftovers: list[Leftover],
    by_source: Mapping[str, list[BackupRecord]],
    grace: timedelta,
    now: datetime,
    dry_run: bool,
) -> tuple[list[str], list[str]]:
    swept, unreadable = [], []
    for leftover in leftovers:
        where = store.location(leftover.folder)
        last_touched = max(listed.modified for listed in leftover.objects)
        if leftover.unreadable is not None and not _superseded(leftover, by_source):
            unreadable.append(
                f"{where}: its manifest is not valid ({leftover.unreadable}), so it is no backup; it is kept, for no"
                " newer backup of that source is verified here. Next: homelab backups, and take a new one"
            )
        elif now - last_touched > grace:
            try:
                if not dry_run:
                    delete_backup(store, leftover.folder)
            except BackupError as error:
                unreadable.append(f"{where}: a leftover that cannot be removed: {error.why}")
                continue
            swept.append(f"{where}: {leftover.unreadable or 'never finished'}")
    return swept, unreadable


def _superseded(leftover: Leftover, by_source: Mapping[str, list[BackupRecord]]) -> bool:
    source_id, _, backup_id = leftover.folder.rpartition("/")
    return any(
        record.status == "verified" and f"{record.taken_at:%Y%m%dT%H%M%SZ}" > backup_id[:ID_TIME]
        for record in by_source.get(source_id, [])
    )
