"""`homelab backups`, `homelab prune`: what the targets hold, and what they need not."""

from __future__ import annotations

from typing import Any

from homelab_pipelines.backup.configured import ConfiguredBackups
from homelab_pipelines.backup.errors import BackupError
from homelab_pipelines.backup.layout import MANIFEST
from homelab_pipelines.backup.manifest import BackupRecord
from homelab_pipelines.backup.readable import readable_bytes
from homelab_pipelines.backup.records import Listing, list_store
from homelab_pipelines.backup.stores.addresses import open_store
from homelab_pipelines.backup.stores.base import BackupStore
from homelab_pipelines.commands.output import print_json, say, show
from homelab_pipelines.report import backup_rows, backup_table


def open_stores(addresses: tuple[str, ...], endpoint: str | None) -> tuple[list[BackupStore], list[BackupError]]:
    """The stores named by hand, else every target of the inventory; and why those left out cannot be opened.

    Raises the error of a store that was named by hand.
    """
    if addresses:
        return [open_store(address, endpoint=endpoint) for address in addresses], []
    opened, failed = ConfiguredBackups.from_environment().open_stores()
    return list(opened.values()), list(failed.values())


def list_backups(name: str | None, addresses: tuple[str, ...], endpoint: str | None, as_json: bool) -> int:
    """Print every backup, or one source's; 1 when it has none, a store cannot be read, or a manifest is not valid."""
    records: list[BackupRecord] = []
    stores, unopened = open_stores(addresses, endpoint)
    faults = [str(error) for error in unopened]
    for store in stores:
        try:
            listing = list_store(store)
        except BackupError as error:
            faults.append(str(error))
            continue
        records += listing.backups
        faults += [
            f"{store.location(leftover.folder)}: not listed, {leftover.reason}"
            for leftover in listing.leftovers
            if leftover.unreadable is not None
        ]
        if addresses and not listing.backups:
            faults.append(_nothing_there(store, listing))
    rows = backup_rows(records)
    if name is not None and (rows or not addresses):
        rows = [row for row in rows if row["source"] in _meant(name, rows, addresses)]
        if not rows:
            places = ", ".join(store.name for store in stores) or "any store"
            faults.append(f"there is no backup of {name!r} in {places}\n  next: homelab backups, for all of them")
    for fault in faults:
        say(fault)
    if as_json:
        print_json(rows)
    elif rows:
        show(backup_table(rows))
    elif not faults:
        say("no backups yet\n  next: homelab backup")
    return 1 if faults else 0


def _nothing_there(store: BackupStore, listing: Listing) -> str:
    """An address that a person gave holds a backup, or is the wrong one."""
    count = sum(leftover.unreadable is None for leftover in listing.leftovers)
    unfinished = f" ({count} were begun and not finished)" if count else ""
    return (
        f"{store.location('')}: nothing there is a backup{unfinished};"
        f" looked for SERVER/DATABASE/ID/{MANIFEST}, with an ID such as 20260131T020000Z-1a2b3c\n"
        "  next: name the folder or prefix that holds the SERVER folders"
    )


def _meant(name: str, rows: list[dict[str, Any]], addresses: tuple[str, ...]) -> set[str]:
    """The ids of the sources that a person means by a name."""
    ids = {row["source"] for row in rows if name in (row["source"], row["database"])}
    if not ids and not addresses and (known := ConfiguredBackups.from_environment().find_source(name)):
        return {known.id}
    return ids


def prune_targets(dry_run: bool, as_json: bool) -> int:
    """Apply retention to every target and explain it; 1 when something stopped it or could not be deleted."""
    from homelab_pipelines.backup.prune import prune
    from homelab_pipelines.backup.retention import explain

    configured = ConfiguredBackups.from_environment()
    settings = configured.homelab.backups
    opened, unopened = configured.open_stores()
    faults = [str(error) for error in unopened.values()]
    rows = []
    for name, store in opened.items():
        try:
            done = prune(
                store,
                settings.targets[name].keep,
                {server: entry.history for server, entry in configured.homelab.databases.items()},
                configured.timezone,
                settings.grace,
                dry_run=dry_run,
            )
        except BackupError as error:
            faults.append(str(error))
            continue
        for source, plan in done.plans.items():
            rows += [{"target": name, "source": source, **row} for row in explain(plan)]
        faults += [f"{name}: {line}" for line in (*done.alerts, *(f"not deleted: {line}" for line in done.refused))]
        verb = "would free" if dry_run else "freed"
        say(f"{name}: {verb} {readable_bytes(done.bytes_freed)}; {len(done.swept)} leftovers")
        for line in done.swept if dry_run else ():
            say(f"  would sweep {line}")
    for fault in faults:
        say(fault)
    if as_json:
        print_json(rows)
    else:
        _show_plan(rows)
    return 1 if faults else 0


def _show_plan(rows: list[dict[str, str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for column in ("target", "source", "taken at (UTC)", "action", "why"):
        table.add_column(column, overflow="fold")
    for row in rows:
        action = "[red]drop[/]" if row["action"] == "drop" else "keep"
        table.add_row(row["target"], row["source"], row["taken_at"], action, escape(row["reason"]))
    show(table)
