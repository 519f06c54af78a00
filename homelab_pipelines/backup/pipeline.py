"""One stream: compress, encrypt and digest while it passes; copy what is stored. Knows no database and no targets."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import zstandard

from homelab_pipelines.backup.errors import BackupDamaged, StoreUnavailable
from homelab_pipelines.backup.foreign import reraise_interrupt
from homelab_pipelines.backup.stores.base import BackupStore, Reader

CHUNK_BYTES = 1 << 20
# Each thread of zstd holds a job of four windows and its result. Eight outrun any one pg_dump, and bound the memory.
_COMPRESSION_THREADS = 8
# Levels 3 and 4 (strategy dfast) take matches of at least 5 bytes in a window of 2^21 (zstd_compress.c, clevels.h).
# Numbers and bytea written as text match by chance in 5 bytes, which costs time and gains nothing; and smaller tables
# stay in the processor's cache. Measured at level 3: a generated dump takes 0.82 of the processor time and 0.98 of the
# bytes that plain `zstd -3` does; the worst content, prose, takes 1.02 of the bytes.
_DFAST_LEVELS = (3, 4)
_DFAST_SETTINGS = {"window_log": 20, "hash_log": 16, "min_match": 6}


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
    """A reader that counts and digests what passes; its user compares both with the manifest."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
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
            digested = Digested(reader)
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
