"""`homelab backups`, `homelab prune`: what the targets hold, and what they need not."""

from __future__ import annotations

from homelab_pipelines.backup.configured import ConfiguredBackups
from homelab_pipelines.backup.errors import BackupError
from homelab_pipelines.backup.manifest import BackupRecord
from homelab_pipelines.backup.records import list_store
from homelab_pipelines.backup.stores.addresses import open_store
from homelab_pipelines.backup.stores.base import BackupStore
from homelab_pipelines.commands.output import print_json, say, show
from homelab_pipelines.report import backup_rows, backup_table, readable_bytes


def open_stores(addresses: tuple[str, ...], endpoint: str | None) -> list[BackupStore]:
    """The stores named by hand, else every target of the inventory."""
    if addresses:
        return [open_store(address, endpoint=endpoint) for address in addresses]
    return [store for _, store in ConfiguredBackups.from_environment().stores()]


def list_backups(name: str | None, addresses: tuple[str, ...], endpoint: str | None, as_json: bool) -> int:
    """Print every backup; 1 when a store could not be read or holds what is no backup."""
    records: list[BackupRecord] = []
    failed = False
    for store in open_stores(addresses, endpoint):
        try:
            listing = list_store(store)
        except BackupError as error:
            say(str(error))
            failed = True
            continue
        records += listing.backups
        for leftover in listing.leftovers:
            if leftover.unreadable is not None:
                say(f"{store.location(leftover.folder)}: not listed, its manifest is not valid: {leftover.unreadable}")
                failed = True
    rows = [row for row in backup_rows(records) if name in (None, row["source"], row["database"])]
    if as_json:
        print_json(rows)
    elif rows:
        show(backup_table(rows))
    else:
        say("no backups yet; next: homelab backup")
    return 1 if failed else 0


def prune_targets(dry_run: bool, as_json: bool) -> int:
    """Apply retention to every target and explain it; 1 when something stopped it or could not be deleted."""
    from homelab_pipelines.backup.prune import prune
    from homelab_pipelines.backup.retention import explain

    configured = ConfiguredBackups.from_environment()
    settings = configured.homelab.backups
    rows, failed = [], False
    for name, store in configured.stores():
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
            say(str(error))
            failed = True
            continue
        for source, plan in done.plans.items():
            rows += [{"target": name, "source": source, **row} for row in explain(plan)]
        for line in (*done.alerts, *(f"not deleted: {line}" for line in done.refused)):
            say(f"{name}: {line}")
            failed = True
        verb = "would free" if dry_run else "freed"
        say(f"{name}: {verb} {readable_bytes(done.bytes_freed)}; {len(done.swept)} leftovers")
    if as_json:
        print_json(rows)
    else:
        _show_plan(rows)
    return 1 if failed else 0


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
