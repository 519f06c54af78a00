"""One stream to several targets at once: one that fails, fails alone; one that is too slow is let go."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from homelab_pipelines.backup.errors import BackupError, CaptureFailed
from homelab_pipelines.backup.stores.base import BackupStore, Writer

QUEUE_CHUNKS = 16
FLOOR_WINDOW_SECONDS = 5.0
STALL_SECONDS = 120.0


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
        self._written = 0
        self._behind_since: tuple[float, int] | None = None
        self._thread = threading.Thread(target=self._run, name=f"write-{target.name}", daemon=True)
        self._thread.start()

    def give(self, chunk: bytes, may_let_go: bool) -> str | None:
        """Queue a chunk; the reason why this target is out, or None."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(chunk)
            self._behind_since = None  # it keeps up: nothing waits for it
            return self._error
        started = time.monotonic()
        if self._behind_since is None:
            self._behind_since = (started, self._written)
        while self._error is None:
            with contextlib.suppress(queue.Full):
                self._queue.put(chunk, timeout=0.2)
                return None
            if may_let_go and (reason := self._below_floor()) is not None:
                self.abort()
                return reason
            if time.monotonic() - started >= STALL_SECONDS:
                self.abort()
                return f"stood still for {STALL_SECONDS:.0f} s"
        return self._error

    def _below_floor(self) -> str | None:
        """Why this target is too slow, measured over windows in which its queue was full all the time; or None."""
        if self.target.floor is None or self._behind_since is None:
            return None
        since, written_then = self._behind_since
        waited = time.monotonic() - since
        if waited < FLOOR_WINDOW_SECONDS:
            return None
        rate, floor = (self._written - written_then) / waited, self.target.floor
        if rate < floor:
            return f"let go: {rate / 1e6:.1f} MB/s for {waited:.0f} s, below its floor of {floor / 1e6:.1f} MB/s"
        self._behind_since = (time.monotonic(), self._written)
        return None

    def close(self) -> None:
        """Say that no more chunks come."""
        self._closed.set()
        with contextlib.suppress(queue.Full):  # full: the thread sees the event once it has drained the queue
            self._queue.put_nowait(None)

    def finished(self) -> str | None:
        """Wait until the object is committed; why it is not, or None."""
        while self._thread.is_alive():
            written_then = self._written
            self._thread.join(STALL_SECONDS)
            if self._thread.is_alive() and self._written == written_then:
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
        while True:
            try:
                return self._queue.get(timeout=1.0)
            except queue.Empty:
                if self._closed.is_set() or self._aborted.is_set():
                    return None

    def _run(self) -> None:
        writer: Writer | None = None
        try:
            writer = self.target.store.writer(self._key, self._expected_bytes)
            while (chunk := self._next()) is not None and not self._aborted.is_set():
                writer.write(chunk)
                self._written += len(chunk)
            if not self._aborted.is_set():
                writer.commit()
        except BackupError as error:
            self._error = f"{error.what}: {error.why}"
        except Exception as error:  # noqa: BLE001 (a store's own fault must reach the report, not die with the thread)
            self._error = f"{type(error).__name__}: {error}"
        finally:
            if writer is not None:
                writer.abort()
