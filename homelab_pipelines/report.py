"""What a person reads of backups: the rows of a listing, their table, and numbers in words. No I/O but printing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from homelab_pipelines.backup.layout import Source
from homelab_pipelines.backup.manifest import BackupRecord
from homelab_pipelines.backup.readable import readable_bytes

if TYPE_CHECKING:
    from rich.table import Table

_WORST_FIRST = ("failed", "unverified", "verified")


def backup_rows(records: Iterable[BackupRecord]) -> list[dict[str, Any]]:
    """One object per backup, newest first, its copies on several targets together.

    `status` is that of the worst copy; `restore_seconds` is what the last restore of any copy took.
    """
    copies: dict[tuple[str, str], list[BackupRecord]] = defaultdict(list)
    for record in records:
        copies[record.manifest.source, record.manifest.id].append(record)
    rows = [_row(source, backup_id, found) for (source, backup_id), found in copies.items()]
    return sorted(rows, key=lambda row: row["taken_at"], reverse=True)


def _row(source_id: str, backup_id: str, found: Sequence[BackupRecord]) -> dict[str, Any]:
    manifest, source = found[0].manifest, Source.parse(source_id)
    proofs = [record.latest_proof for record in found]
    proven = [proof for proof in proofs if proof is not None and proof.result == "equal"]
    status = next(each for each in _WORST_FIRST if any(record.status == each for record in found))
    restored = max((p for p in proven if p.restore_seconds is not None), key=lambda p: p.checked_at, default=None)
    return {
        "source": source_id,
        "server": source.server,
        "database": source.database,
        "id": backup_id,
        "taken_at": manifest.taken_at.isoformat(),
        "duration_seconds": manifest.duration.total_seconds(),
        "bytes": manifest.bytes,
        "rows": manifest.evidence.rows,
        "targets": [record.target for record in found],
        "locations": {record.target: record.location for record in found},
        "status": status,
        "verified_at": max(p.checked_at for p in proven).isoformat() if proven and status == "verified" else None,
        "restore_seconds": restored.restore_seconds if restored else None,
        "problems": {record.target: problem for record in found if (problem := _problem(record))},
    }


def _problem(record: BackupRecord) -> str | None:
    if record.damage:
        return record.damage
    proof = record.latest_proof
    return None if proof is None or proof.result == "equal" else "; ".join(proof.differences) or proof.result


def backup_table(rows: Iterable[dict[str, Any]], title: str | None = None) -> Table:
    """The rows of `backup_rows` as a table, narrow enough for 80 columns where names are short."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column, wraps in (("source", True), ("taken at (UTC)", False), ("size", False), ("took", False)):
        table.add_column(column, overflow="fold", no_wrap=not wraps)
    table.add_column("where", overflow="fold")
    table.add_column("proof", overflow="fold", min_width=18)
    table.add_column("restored in", no_wrap=True)
    for row in rows:
        seconds = row["restore_seconds"]
        table.add_row(
            escape(row["source"]),
            row["taken_at"][:16].replace("T", " "),
            readable_bytes(row["bytes"]),
            f"{row['duration_seconds']:.1f} s",
            escape(", ".join(row["targets"])),
            _proof(row),
            f"{seconds:.1f} s" if seconds is not None else "-",
        )
    return table


def _proof(row: dict[str, Any]) -> str:
    if row["status"] == "verified":
        return "[green]restored and equal[/]"
    if row["status"] == "unverified":
        return "[yellow]not verified yet[/]"
    from rich.markup import escape

    return "[red]failed[/]: " + escape("; ".join(f"{target}: {why}" for target, why in row["problems"].items()))
