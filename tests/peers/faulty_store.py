"""A BackupStore for tests that damages or refuses chosen objects, in front of a real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Literal

from homelab_pipelines.backup.errors import BackupError, StoreUnavailable
from homelab_pipelines.backup.stores.base import BackupStore, Listed, Reader, Writer


@dataclass
class Fault:
    """What happens to an object whose key fits the pattern `keys`, while it is read or written.

    flip: one bit of the byte at `offset` is turned over. truncate: everything from `offset` on is missing. error: an
    error is raised as soon as `offset` bytes have passed; on "commit", before the commit. It happens `times` times.
    """

    kind: Literal["flip", "truncate", "error"]
    on: Literal["read", "write", "commit"]
    keys: str = "*"
    offset: int = 0
    times: int = 1
    error: type[BackupError] = StoreUnavailable


class _Bent:
    """The bytes of one object on their way through its faults."""

    def __init__(self, faults: list[Fault], what: str) -> None:
        self._faults, self._what, self._position = faults, what, 0

    def bend(self, data: bytes) -> bytes:
        bent, end = bytearray(data), self._position + len(data)
        for fault in self._faults:
            at = fault.offset - self._position
            if fault.kind == "error" and end >= fault.offset:
                self._faults = [each for each in self._faults if each is not fault]
                raise fault.error(self._what, "the test asked for this error", "none")
            if fault.kind == "flip" and 0 <= at < len(data):
                bent[at] ^= 1
        cut = min(
            (fault.offset - self._position for fault in self._faults if fault.kind == "truncate"), default=len(data)
        )
        self._position = end
        return bytes(bent[: max(cut, 0)])


class _FaultyWriter:
    def __init__(self, writer: Writer, bent: _Bent, at_commit: list[Fault], what: str) -> None:
        self._writer, self._bent, self._at_commit, self._what = writer, bent, at_commit, what

    @property
    def sent(self) -> int:
        return self._writer.sent

    def write(self, data: bytes | memoryview) -> None:
        self._writer.write(self._bent.bend(bytes(data)))

    def commit(self) -> None:
        for fault in self._at_commit:
            self._writer.abort()
            raise fault.error(self._what, "the test asked for this error", "none")
        self._writer.commit()

    def abort(self) -> None:
        self._writer.abort()


class _FaultyReader:
    def __init__(self, reader: Reader, bent: _Bent) -> None:
        self._reader, self._bent = reader, bent

    def read(self, size: int, /) -> bytes:
        return self._bent.bend(self._reader.read(size))


class FaultyStore:
    """Passes everything on to `store`, with `faults`, each of which is used up after its `times`."""

    def __init__(self, store: BackupStore, *faults: Fault) -> None:
        self.store = store
        self.faults = list(faults)

    def _take(self, key: str, on: Literal["read", "write", "commit"]) -> list[Fault]:
        taken = [fault for fault in self.faults if fault.on == on and fault.times > 0 and fnmatchcase(key, fault.keys)]
        for fault in taken:
            fault.times -= 1
        return taken

    @property
    def name(self) -> str:
        return self.store.name

    def check(self) -> None:
        self.store.check()

    def scan(self, prefix: str = "") -> Iterator[Listed]:
        return self.store.scan(prefix)

    def writer(self, key: str, expected_bytes: int = 0) -> Writer:
        what = f"writing {self.location(key)}"
        bent = _Bent(self._take(key, "write"), what)
        return _FaultyWriter(self.store.writer(key, expected_bytes), bent, self._take(key, "commit"), what)

    @contextmanager
    def open(self, key: str) -> Iterator[Reader]:
        with self.store.open(key) as reader:
            yield _FaultyReader(reader, _Bent(self._take(key, "read"), f"reading {self.location(key)}"))

    def delete(self, key: str) -> None:
        self.store.delete(key)

    def sweep(self, older_than: timedelta, now: datetime) -> list[str]:
        return self.store.sweep(older_than, now)

    def location(self, key: str) -> str:
        return self.store.location(key)
