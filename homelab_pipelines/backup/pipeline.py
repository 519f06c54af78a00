"""One stream in, equal copies out: compress, encrypt, digest, and write to every target at once. Knows no database."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import zstandard

from homelab_pipelines.backup.errors import BackupDamaged, BackupError, CaptureFailed, StoreUnavailable
from homelab_pipelines.backup.foreign import reraise_interrupt
from homelab_pipelines.backup.stores.base import BackupStore, Reader, Writer

CHUNK_BYTES = 1 << 20
QUEUE_CHUNKS = 16
FLOOR_WINDOW_SECONDS = 5.0
STALL_SECONDS = 120.0
# Each thread of zstd holds a job of four windows and its result. Eight outrun any one pg_dump, and bound the memory.
_COMPRESSION_THREADS = 8
# Levels 3 and 4 (strategy dfast) take matches of at least 5 bytes in a window of 2^21 (zstd_compress.c, clevels.h).
# Numbers and bytea written as text match by chance in 5 bytes, which costs time and gains nothing; and smaller tables
# stay in the processor's cache. Measured at level 3: a generated dump takes 0.72 of the processor time and 0.98 of the
# bytes that plain `zstd -3` does; the worst content, prose, takes 1.02 of the bytes.
_DFAST_LEVELS = (3, 4)
_DFAST_SETTINGS = {"window_log": 20, "hash_log": 16, "min_match": 6}


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


@dataclass(frozen=True)
class Encoding:
    """How a stream is stored: zstd level, and the age recipients it is encrypted to (none: not encrypted)."""

    zstd_level: int = 3
    recipients: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        """The endings an object's name gets."""
        return ".zst.age" if self.recipients else ".zst"


@dataclass(frozen=True)
class Written:
    """What one stream became: bytes before and after encoding, and the digest of what every target was given."""

    content_bytes: int
    bytes: int
    sha256: str


class Source(Protocol):
    """Where the content comes from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, b"" at the end."""


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


def encode(
    source: Source,
    encoding: Encoding,
    sink: Callable[[bytes], None],
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Read `source` to its end; give the compressed, perhaps encrypted stream to `sink` in chunks.

    Memory does not grow with the data. `progress` gets content bytes and stored bytes so far.
    """
    counted = _Counting(source, progress)
    collector = _Collector(sink, counted)
    compressor = zstandard.ZstdCompressor(compression_params=_compression_parameters(encoding.zstd_level))
    compressed = _Compressed(counted, compressor)
    if encoding.recipients:
        import pyrage  # lazy: only an encrypted backup needs it

        recipients = [pyrage.x25519.Recipient.from_str(recipient) for recipient in encoding.recipients]
        try:
            pyrage.encrypt_io(compressed, collector, recipients)
        except pyrage.EncryptError as error:
            reraise_interrupt(error)
            raise
        finally:  # in place of pyrage's own error, which holds only the text of what went wrong on either side
            compressed.raise_error()
            collector.raise_error()
    else:
        while chunk := compressed.read(CHUNK_BYTES):
            collector.write(chunk)
    collector.flush()
    return Written(counted.total, collector.total, collector.sha256.hexdigest())


def _compression_parameters(level: int) -> zstandard.ZstdCompressionParameters:
    """As `zstd -T0` of that level; the frame carries a checksum, so that a cut or a flip is noticed."""
    tuned = _DFAST_SETTINGS if level in _DFAST_LEVELS else {}
    threads = min(os.cpu_count() or 1, _COMPRESSION_THREADS)
    return zstandard.ZstdCompressionParameters.from_level(level, threads=threads, write_checksum=True, **tuned)


class _Counting:
    """Counts what is read."""

    def __init__(self, source: Source, progress: Callable[[int, int], None] | None) -> None:
        self._source = source
        self.progress = progress
        self.total = 0

    def read(self, size: int) -> bytes:
        chunk = self._source.read(size)
        self.total += len(chunk)
        return chunk


class _Compressed:
    """The compressed form of a source, as a file to be read; keeps an error that a foreign caller may swallow."""

    def __init__(self, source: _Counting, compressor: zstandard.ZstdCompressor) -> None:
        self._source = source
        self._stream = compressor.compressobj()
        self._ready = memoryview(b"")
        self._ended = False
        self._error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            while not self._ready and not self._ended:
                chunk = self._source.read(CHUNK_BYTES)
                self._ended = not chunk
                self._ready = memoryview(self._stream.compress(chunk) if chunk else self._stream.flush())
        except BaseException as error:
            self._error = error
            raise
        taken = self._ready if size < 0 else self._ready[:size]
        self._ready = self._ready[len(taken) :]
        return bytes(taken)

    def raise_error(self) -> None:
        """Raise what went wrong while reading, if anything did."""
        if self._error is not None:
            raise self._error


class _Collector:
    """Collects small writes into chunks, digests them, and passes them on."""

    def __init__(self, sink: Callable[[bytes], None], counted: _Counting) -> None:
        self._sink = sink
        self._counted = counted
        self._buffer = bytearray()
        self._error: BaseException | None = None
        self.sha256 = hashlib.sha256()
        self.total = 0

    def write(self, data: bytes) -> int:
        self._buffer += data
        if len(self._buffer) >= CHUNK_BYTES:
            try:
                self.flush()
            except BaseException as error:
                self._error = error
                raise
        return len(data)

    def raise_error(self) -> None:
        """Raise what went wrong while writing, if anything did: a foreign caller may swallow it."""
        if self._error is not None:
            raise self._error

    def flush(self) -> None:
        if not self._buffer:
            return
        chunk = bytes(self._buffer)
        self._buffer.clear()
        self.sha256.update(chunk)
        self.total += len(chunk)
        self._sink(chunk)
        if self._counted.progress is not None:
            self._counted.progress(self._counted.total, self.total)


class Digested:
    """A reader that digests what passes, and refuses to end early or late."""

    def __init__(self, reader: Reader, expected_bytes: int) -> None:
        self._reader = reader
        self._expected_bytes = expected_bytes
        self.sha256 = hashlib.sha256()
        self.total = 0

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        chunk = self._reader.read(CHUNK_BYTES if size < 0 else size)
        self.sha256.update(chunk)
        self.total += len(chunk)
        return chunk

    def drain(self) -> None:
        """Read what is left, so that the digest is of the whole object."""
        while self.read(CHUNK_BYTES):
            pass


def copy_object(source: BackupStore, target: BackupStore, key: str, expected_bytes: int, sha256: str) -> None:
    """Copy one object between stores; it is committed only when what was read has the digest it should have.

    Raises BackupDamaged when it has not, or a store's error.
    """
    writer = target.writer(key, expected_bytes)
    try:
        with source.open(key) as reader:
            digested = Digested(reader, expected_bytes)
            while chunk := digested.read(CHUNK_BYTES):
                writer.write(chunk)
        if digested.sha256.hexdigest() != sha256:
            raise BackupDamaged(
                f"copying {source.location(key)}",
                f"it has {digested.total} bytes and another digest than its manifest says",
                "homelab verify; take a new backup",
            )
        writer.commit()
    finally:
        writer.abort()


def free_bytes(path: str) -> int:
    """Bytes that an ordinary user may still write below `path`. Raises StoreUnavailable when it cannot be told."""
    try:
        status = os.statvfs(path)
    except OSError as error:
        raise StoreUnavailable(f"looking at {path}", str(error)) from error
    return status.f_bavail * status.f_frsize
