"""Carrying out retention plans, and clearing away what killed runs left behind. Every deletion has its reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from homelab_pipelines.backup.errors import BackupError, ObjectLocked, StoreRefused
from homelab_pipelines.backup.layout import ID_TIME, MANIFEST, PROOF_PREFIX, Source, backup_folder
from homelab_pipelines.backup.manifest import BackupRecord
from homelab_pipelines.backup.records import Leftover, list_store
from homelab_pipelines.backup.retention import RetentionPlan, plan_retention
from homelab_pipelines.backup.stores.base import BackupStore
from homelab_pipelines.inventory.backups import Keep
from homelab_pipelines.inventory.databases import History


@dataclass
class Pruned:
    """What was done on one target: a plan for each source, the ids deleted, and what could not be (locked, refused).

    `faults`: what else went wrong, each with its next step.
    """

    plans: dict[str, RetentionPlan] = field(default_factory=dict)
    deleted: dict[str, list[str]] = field(default_factory=dict)
    bytes_freed: int = 0
    refused: list[str] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def alerts(self) -> list[str]:
        """What a person has to be told."""
        return [alert for plan in self.plans.values() for alert in plan.alerts] + self.faults


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
    retention, for nothing new proves its backups. Raises a store's error when the store cannot be read; one that comes
    later ends the pruning and is among the faults, for what was deleted before has to be told.
    """
    moment = now or datetime.now(UTC)
    listing = list_store(store)
    by_source: dict[str, list[BackupRecord]] = defaultdict(list)
    for record in listing.backups:
        by_source[record.manifest.source].append(record)
    done = Pruned()
    for source_id, records in sorted(by_source.items()):
        known = limits.get(Source.parse(source_id).server)
        done.plans[source_id] = plan_retention(
            records, keep if known is not None else None, known or History(), moment, timezone
        )
    try:
        _delete_dropped(store, by_source, done, dry_run)
        _sweep_leftovers(store, listing.leftovers, by_source, grace, moment, done, dry_run)
        done.swept += store.sweep(grace, moment, dry_run)
    except BackupError as error:
        done.faults.append(f"{error.what}: {error.why}; the rest is left as it is. {_next(error)}")
    return done


def delete_backup(store: BackupStore, folder: str) -> None:
    """Remove a backup: its manifest first, so that a deletion cut short leaves no backup that looks whole.

    When the manifest cannot go, nothing does. Then the data, and the proofs last: they are younger, so object lock
    holds them longest, and what is locked must not keep the rest. Raises a store's error at the first that stays.
    """
    keys = sorted(
        (listed.key for listed in store.scan(f"{folder}/")),
        key=lambda key: (not key.endswith(f"/{MANIFEST}"), f"/{PROOF_PREFIX}" in key, key),
    )
    for key in keys:
        store.delete(key)


def _delete_dropped(
    store: BackupStore, by_source: Mapping[str, list[BackupRecord]], done: Pruned, dry_run: bool
) -> None:
    for source_id, plan in done.plans.items():
        sizes = {record.manifest.id: record.manifest.bytes for record in by_source[source_id]}
        for backup_id in plan.dropped:
            try:
                if not dry_run:
                    delete_backup(store, backup_folder(source_id, backup_id))
            except StoreRefused as error:
                done.refused.append(f"{source_id} {backup_id}: {error.why}")
                continue
            done.deleted.setdefault(source_id, []).append(backup_id)
            done.bytes_freed += sizes[backup_id]


def _sweep_leftovers(
    store: BackupStore,
    leftovers: list[Leftover],
    by_source: Mapping[str, list[BackupRecord]],
    grace: timedelta,
    now: datetime,
    done: Pruned,
    dry_run: bool,
) -> None:
    """Remove folders that never became backups, or were left by a deletion, older than `grace`.

    A folder whose manifest is there but not valid may still hold somebody's only data: it goes only when a newer backup
    of the same source on the same store is verified. One that cannot be read may be a whole backup, and never goes.
    """
    for leftover in leftovers:
        where = store.location(leftover.folder)
        last_touched = max(listed.modified for listed in leftover.objects)
        if leftover.error is not None:
            done.faults.append(f"{where}: {leftover.reason}; it is kept. {_next(leftover.error)}")
        elif leftover.unreadable is not None and not _superseded(leftover, by_source):
            done.faults.append(
                f"{where}: {leftover.reason}, so it is no backup; it is kept, for no newer backup of that source is"
                " verified here. Next: homelab backups, and take a new one"
            )
        elif now - last_touched > grace:
            try:
                if not dry_run:
                    delete_backup(store, leftover.folder)
            except ObjectLocked as error:
                done.refused.append(f"{where}: {error.why}")
            except BackupError as error:
                done.faults.append(f"{where}: a leftover that cannot be removed: {error.why}. {_next(error)}")
            else:
                done.swept.append(f"{where}: {leftover.reason}")


def _next(error: BackupError) -> str:
    return f"Next: {error.next_step or 'homelab check'}"


def _superseded(leftover: Leftover, by_source: Mapping[str, list[BackupRecord]]) -> bool:
    source_id, _, backup_id = leftover.folder.rpartition("/")
    return any(
        record.status == "verified" and f"{record.taken_at:%Y%m%dT%H%M%SZ}" > backup_id[:ID_TIME]
        for record in by_source.get(source_id, [])
    )
