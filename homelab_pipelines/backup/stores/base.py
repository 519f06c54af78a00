"""The interface every store has, and nothing of any particular one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol


@dataclass(frozen=True)
class Listed:
    """One finished object of a store: its key below the store's root, its size in bytes, and when it was finished."""

    key: str
    bytes: int
    modified: datetime


class Writer(Protocol):
    """One object being written; it exists under its key only after `commit`."""

    @property
    def sent(self) -> int:
        """Bytes that went to the store so far. May be asked from another thread while `write` or `commit` is at work.

        It grows while they go, not only when `write` returns: by it a slow store is told from one that stands still.
        """

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes. Raises StoreUnavailable or StoreRefused."""

    def commit(self) -> None:
        """Make the object durable and visible, whole, under its key. Raises StoreUnavailable or StoreRefused."""

    def abort(self) -> None:
        """Leave nothing behind. Never raises; safe to call twice, and after `commit` (then it does nothing)."""


class Reader(Protocol):
    """One object being read from its start."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, b"" at the end. Raises StoreUnavailable."""


class BackupStore(Protocol):
    """A place that keeps objects under slash-separated keys. All times are UTC, all sizes bytes.

    An object appears whole or not at all: `scan` and `open` never show what was not committed.
    """

    @property
    def name(self) -> str:
        """The target's name in the inventory, or its address."""

    def check(self) -> None:
        """Raise StoreUnavailable or StoreRefused, saying why, unless the store can be written to now."""

    def scan(self, prefix: str = "") -> Iterator[Listed]:
        """Finished objects whose key starts with `prefix`, in no promised order."""

    def writer(self, key: str, expected_bytes: int = 0) -> Writer:
        """Start to write an object; `expected_bytes` is a hint of its size. Replaces an older one at commit."""

    def open(self, key: str) -> AbstractContextManager[Reader]:
        """Read an object. Raises ObjectMissing when there is none."""

    def delete(self, key: str) -> None:
        """Remove an object; no error when there is none. Raises StoreRefused when it is locked."""

    def sweep(self, older_than: timedelta, now: datetime) -> list[str]:
        """Remove what unfinished writes left behind longer ago than `older_than`; return a line for each."""

    def location(self, key: str) -> str:
        """Where a person finds the object: a path or an s3:// address."""


def put(store: BackupStore, key: str, data: bytes) -> None:
    """Write a small object in one go."""
    writer = store.writer(key, len(data))
    try:
        writer.write(data)
        writer.commit()
    finally:
        writer.abort()


def get(store: BackupStore, key: str) -> bytes:
    """Read a small object whole."""
    with store.open(key) as reader:
        return b"".join(iter(lambda: reader.read(1 << 20), b""))
