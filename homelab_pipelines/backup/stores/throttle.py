"""A limit on how many bytes a second go to a target, and the store that keeps to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

from homelab_pipelines.backup.stores.base import BackupStore, Listed, Reader, Writer

_PIECES_A_SECOND = 4
_SMALLEST_PIECE = 4 << 10


class Throttle:
    """A token bucket for any number of threads: `take` waits until the bytes asked for may go.

    It holds at most a quarter of a second's bytes: an idle target saves nothing up. `clock` and `sleep` are in seconds.
    """

    def __init__(
        self,
        bytes_per_second: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if bytes_per_second < 1:
            raise ValueError(f"a rate of {bytes_per_second} bytes a second lets nothing through")
        self.bytes_per_second = bytes_per_second
        self.piece = max(bytes_per_second // _PIECES_A_SECOND, _SMALLEST_PIECE)
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._paid_until = clock()

    def take(self, count: int) -> None:
        """Wait until `count` bytes may go. Threads are served in the order in which they ask."""
        with self._lock:
            now = self._clock()
            self._paid_until = max(self._paid_until, now - 1 / _PIECES_A_SECOND) + count / self.bytes_per_second
            wait = self._paid_until - now
        if wait > 0:
            self._sleep(wait)


class _ThrottledWriter:
    def __init__(self, writer: Writer, throttle: Throttle) -> None:
        self._writer, self._throttle, self._passed = writer, throttle, 0

    @property
    def sent(self) -> int:
        """What passed the limit counts beside what the store took: to wait for its turn is no slowness of the store.

        An S3 store holds what passed until a part is full, and sends it then.
        """
        return self._passed + self._writer.sent

    def write(self, data: bytes | memoryview) -> None:
        with memoryview(data) as view, view.cast("B") as rest:
            for start in range(0, len(rest), self._throttle.piece):
                piece = rest[start : start + self._throttle.piece]
                self._throttle.take(len(piece))
                self._passed += len(piece)
                self._writer.write(piece)

    def commit(self) -> None:
        self._writer.commit()

    def abort(self) -> None:
        self._writer.abort()


class ThrottledStore:
    """A BackupStore that writes to another no faster than `rate` bytes a second, over all its writers together.

    The limit holds for what writers take in; an S3 store sends what it took in one part (8 MiB and more) at a time, so
    there the limit holds on the average over a part, not within it. Reading is not limited.
    """

    def __init__(self, store: BackupStore, rate: int | Throttle) -> None:
        self.store = store
        self._throttle = rate if isinstance(rate, Throttle) else Throttle(rate)

    def __repr__(self) -> str:
        return f"ThrottledStore({self.store!r}, {self._throttle.bytes_per_second})"

    @property
    def name(self) -> str:
        """The name of the store behind."""
        return self.store.name

    def check(self) -> None:
        """As the store behind."""
        self.store.check()

    def scan(self, prefix: str = "") -> Iterator[Listed]:
        """As the store behind."""
        return self.store.scan(prefix)

    def writer(self, key: str, expected_bytes: int = 0) -> Writer:
        """A writer of the store behind that takes bytes no faster than the rate."""
        return _ThrottledWriter(self.store.writer(key, expected_bytes), self._throttle)

    def open(self, key: str) -> AbstractContextManager[Reader]:
        """As the store behind."""
        return self.store.open(key)

    def delete(self, key: str) -> None:
        """As the store behind."""
        self.store.delete(key)

    def sweep(self, older_than: timedelta, now: datetime) -> list[str]:
        """As the store behind."""
        return self.store.sweep(older_than, now)

    def location(self, key: str) -> str:
        """As the store behind."""
        return self.store.location(key)
