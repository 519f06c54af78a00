"""One stream to several targets at once: one that fails, fails alone; one that is too slow is let go."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from homelab_pipelines.backup.errors import BackupError, CaptureFailed
from homelab_pipelines.backup.stores.base import BackupStore, Writer

QUEUE_CHUNKS = 16
FLOOR_WINDOW_SECONDS = 5.0
STALL_SECONDS = 120.0
# What the kernel may hold of a connection (tcp(7), tcp_wmem: 4 MiB): it seems sent, and while the kernel sends it,
# nothing seems to be. A target is below its floor only by more than that.
ON_ITS_WAY_BYTES = 4 << 20
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Target:
    """A store that a run writes to.

    `floor` is the rate in bytes a second below which it is let go rather than hold the dump back; None: only when it
    stands still for STALL_SECONDS.
    """

    store: BackupStore
    floor: int | None = None

    @property
    def name(self) -> str:
        """The store's name."""
        return self.store.name


@dataclass
class FanOut:
    """One object being written to several targets, each from its own thread, so that one that fails, fails alone.

    `missed` collects, by target, why it does not hold the object.
    """

    key: str
    targets: Sequence[Target]
    expected_bytes: int = 0
    missed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lanes = [_Lane(self.key, target, self.expected_bytes) for target in self.targets]

    def write(self, chunk: bytes) -> None:
        """Give the next bytes to every target still alive. Raises CaptureFailed when none is."""
        for lane in self._alive():
            others = len(self._alive()) > 1
            if (reason := lane.give(chunk, may_let_go=others)) is not None:
                self.missed[lane.target.name] = reason
        if not self._alive():
            raise CaptureFailed(f"writing {self.key}", f"no target is left: {self._reasons()}", "homelab check")

    def commit(self) -> list[Target]:
        """Finish the object on every target still alive; those that hold it. Raises CaptureFailed when none does."""
        for lane in self._alive():
            lane.close()
        finished = []
        for lane in self._alive():
            if (reason := lane.finished()) is None:
                finished.append(lane.target)
            else:
                self.missed[lane.target.name] = reason
        if not finished:
            raise CaptureFailed(f"finishing {self.key}", f"no target took it: {self._reasons()}", "homelab check")
        return finished

    def abort(self) -> None:
        """Leave nothing of an uncommitted object behind; does nothing after `commit`."""
        for lane in self._lanes:
            lane.abort()

    def _alive(self) -> list[_Lane]:
        return [lane for lane in self._lanes if lane.target.name not in self.missed]

    def _reasons(self) -> str:
        return "; ".join(f"{name}: {reason}" for name, reason in self.missed.items())


class _Lane:
    """The thread that writes one target's copy, behind a short queue."""

    def __init__(self, key: str, target: Target, expected_bytes: int) -> None:
        self.target = target
        self._key = key
        self._expected_bytes = expected_bytes
        self._queue: queue.Queue[bytes | None] = queue.Queue(QUEUE_CHUNKS)
        self._error: str | None = None
        self._aborted = threading.Event()
        self._closed = threading.Event()
        self._writer: Writer | None = None
        # Seconds that the thread was at work, not waiting for chunks, and since when it is at work again, if it is.
        self._work: tuple[float, float | None] = (0.0, time.monotonic())
        self._watched_from = (0.0, 0)
        self._last_waited_for = -math.inf
        self._thread = threading.Thread(target=self._run, name=f"write-{target.name}", daemon=True)
        self._thread.start()

    def give(self, chunk: bytes, may_let_go: bool) -> str | None:
        """Queue a chunk; the reason why this target is out, or None."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(chunk)
            return self._error
        if time.monotonic() - self._last_waited_for >= FLOOR_WINDOW_SECONDS:  # it kept up until now
            self._watched_from = (self._seconds_at_work(), self._sent())
        progress = _Progress(self._sent)
        while self._error is None:
            with contextlib.suppress(queue.Full):
                self._queue.put(chunk, timeout=_LOOK_SECONDS)
                self._last_waited_for = time.monotonic()
                return None
            if may_let_go and (reason := self._below_floor()) is not None:
                self.abort()
                return reason
            if progress.stands_still():
                self.abort()
                return f"stood still for {STALL_SECONDS:.0f} s"
        return self._error

    def _below_floor(self) -> str | None:
        """Why this target, which the dump waits for, is too slow; or None.

        Measured while its thread is at work: an S3 target takes a part at once and then sends it, and the time in which
        it waits for the next part's chunks is not its own.
        """
        if self.target.floor is None:
            return None
        seconds_then, sent_then = self._watched_from
        seconds, sent = self._seconds_at_work(), self._sent()
        worked, moved = seconds - seconds_then, sent - sent_then
        if worked < FLOOR_WINDOW_SECONDS:
            return None
        if moved >= self.target.floor * worked:
            self._watched_from = (seconds, sent)
        elif moved + ON_ITS_WAY_BYTES < self.target.floor * worked:
            rate, floor = moved / worked / 1e6, self.target.floor / 1e6
            return f"let go: {rate:.1f} MB/s for {worked:.0f} s, below its floor of {floor:.1f} MB/s"
        return None

    def _sent(self) -> int:
        """Bytes that went to the store. What it only took into its memory, as S3 does for a part, is none of them."""
        return self._writer.sent if self._writer is not None else 0

    def _seconds_at_work(self) -> float:
        worked, since = self._work
        return worked + (time.monotonic() - since if since is not None else 0.0)

    def close(self) -> None:
        """Say that no more chunks come."""
        self._closed.set()
        with contextlib.suppress(queue.Full):  # full: the thread sees the event once it has drained the queue
            self._queue.put_nowait(None)

    def finished(self) -> str | None:
        """Wait until the object is committed; why it is not, or None."""
        progress = _Progress(self._sent)
        while self._thread.is_alive():
            self._thread.join(_LOOK_SECONDS)
            if self._thread.is_alive() and progress.stands_still():
                self.abort()
                return f"stood still for {STALL_SECONDS:.0f} s"
        return self._error

    def abort(self) -> None:
        """Make the thread leave nothing behind; it is waited for, but not for ever (a dead mount may never answer)."""
        self._aborted.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(FLOOR_WINDOW_SECONDS)

    def _next(self) -> bytes | None:
        self._work = (self._seconds_at_work(), None)
        try:
            while True:
                with contextlib.suppress(queue.Empty):
                    return self._queue.get(timeout=1.0)
                if self._closed.is_set() or self._aborted.is_set():
                    return None
        finally:
            self._work = (self._work[0], time.monotonic())

    def _run(self) -> None:
        writer: Writer | None = None
        try:
            self._writer = writer = self.target.store.writer(self._key, self._expected_bytes)
            while (chunk := self._next()) is not None and not self._aborted.is_set():
                writer.write(chunk)
            if not self._aborted.is_set():
                writer.commit()
        except BackupError as error:
            self._error = f"{error.what}: {error.why}"
        except Exception as error:  # noqa: BLE001 (a store's own fault must reach the report, not die with the thread)
            self._error = f"{type(error).__name__}: {error}"
        finally:
            if writer is not None:
                writer.abort()


class _Progress:
    """Since when a count has not grown."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._last, self._since = count(), time.monotonic()

    def stands_still(self) -> bool:
        """Whether it has not grown for STALL_SECONDS."""
        now, count = time.monotonic(), self._count()
        if count != self._last:
            self._last, self._since = count, now
        return now - self._since >= STALL_SECONDS
