"""Numbers in words that people read."""

from __future__ import annotations


def readable_bytes(count: float) -> str:
    """`1.4 GB`: decimal units, as disks are sold."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
