"""Markdown tables for metadata."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import dagster as dg


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> dg.MarkdownMetadataValue:
    """A Markdown table; cells are shown as text, with what Markdown would read as its own escaped."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


def table_if_any(
    name: str, head: Sequence[str], rows: Sequence[Sequence[object]]
) -> dict[str, dg.MarkdownMetadataValue]:
    """`name` with its table, or nothing where there is no row: an empty table is only in the way."""
    return {name: table(head, rows)} if rows else {}


def _cell(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
