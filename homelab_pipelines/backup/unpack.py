"""Reading a stored object back: digest, age, zstd. Nothing of it is used before its digest was seen to be right."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import zstandard

from homelab_pipelines.backup.errors import BackupDamaged, KeyMissing, ObjectMissing, StoreUnavailable
from homelab_pipelines.backup.foreign import reraise_interrupt
from homelab_pipelines.backup.layout import backup_folder
from homelab_pipelines.backup.manifest import Manifest, StoredObject
from homelab_pipelines.backup.pipeline import CHUNK_BYTES, Digested
from homelab_pipelines.backup.stores.base import BackupStore

_NEXT = "restore another copy or an older backup (homelab backups), and take a new one"


class Sink(Protocol):
    """Where the content goes."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes."""


class _Nowhere:
    def write(self, data: bytes, /) -> object:
        return len(data)


NOWHERE: Sink = _Nowhere()


def parse_identities(text: str) -> list[Any]:
    """The age identities of a key file (age-keygen's format: comments and AGE-SECRET-KEY-1… lines).

    Raises KeyMissing when there is none; the message never holds a key.
    """
    import pyrage  # lazy: only an encrypted backup needs it

    lines = [line.strip() for line in text.splitlines()]
    try:
        found = [pyrage.x25519.Identity.from_str(line) for line in lines if line.startswith("AGE-SECRET-KEY-1")]
    except pyrage.IdentityError as error:
        raise KeyMissing("reading the age identity", "a line of it is not a whole AGE-SECRET-KEY-1…", "") from error
    if not found:
        raise KeyMissing(
            "reading the age identity", "it holds no line AGE-SECRET-KEY-1…", "age-keygen -o FILE makes one"
        )
    return found


def check_object(store: BackupStore, manifest: Manifest, stored: StoredObject) -> None:
    """Re-read a stored object and compare its size and digest. Raises BackupDamaged with the cause."""
    _read(store, manifest, stored, lambda digested: digested.drain())


def unpack(store: BackupStore, manifest: Manifest, stored: StoredObject, identities: Sequence[Any], sink: Sink) -> None:
    """Write the content of a stored object to `sink`; what was written counts only when this returns.

    Raises KeyMissing when no identity opens it, BackupDamaged when it is not what was written, or a store's error.
    """
    if manifest.recipients and not identities:
        raise KeyMissing(
            f"opening {store.location(backup_folder(manifest.source, manifest.id))}",
            f"it is encrypted to {', '.join(manifest.recipients)}, and no identity was given",
            "give the key's file: --identity FILE, or backups.identity in homelab.yaml",
        )
    failure: list[Exception] = []

    def consume(digested: Digested) -> None:
        content = _Decompressing(sink)
        try:
            if manifest.recipients:
                _decrypt(digested, content, identities)
            else:
                while chunk := digested.read(CHUNK_BYTES):
                    content.write(chunk)
            content.finish()
        except (BackupDamaged, KeyMissing, zstandard.ZstdError) as error:
            failure.append(error)  # the digest decides first: a damaged object is no wrong key
        digested.drain()

    _read(store, manifest, stored, consume)
    if failure:
        error = failure[0]
        if isinstance(error, KeyMissing):
            raise error
        raise BackupDamaged(f"unpacking {stored.name} of {manifest.id}", str(error), _NEXT) from error


def _read(store: BackupStore, manifest: Manifest, stored: StoredObject, consume: Callable[[Digested], None]) -> None:
    key = f"{backup_folder(manifest.source, manifest.id)}/{stored.name}"
    what = f"reading {store.location(key)}"
    try:
        with store.open(key) as reader:
            digested = Digested(reader)
            consume(digested)
    except ObjectMissing as error:
        raise BackupDamaged(what, "the object is missing", _NEXT) from error
    if digested.total != stored.bytes:
        raise BackupDamaged(what, f"it has {digested.total} bytes, its manifest says {stored.bytes}", _NEXT)
    if digested.sha256.hexdigest() != stored.sha256:
        raise BackupDamaged(
            what, f"its SHA-256 is {digested.sha256.hexdigest()}, its manifest says {stored.sha256}", _NEXT
        )


def _decrypt(source: Digested, content: _Decompressing, identities: Sequence[Any]) -> None:
    import pyrage

    # A Rust caller may swallow what a Python reader or writer raises: it is kept, and raised in its place.
    reader, writer = _Keeping(source.read), _Keeping(content.write)
    try:
        pyrage.decrypt_io(_Readable(reader), _Writable(writer), list(identities))
    except Exception as error:
        for kept in (reader.error, writer.error):
            if kept is not None:
                raise kept from error
        reraise_interrupt(error)
        if "no matching" in str(error).lower():
            raise KeyMissing(
                "decrypting the backup", "none of the given identities is one of its recipients", "give the right key"
            ) from error
        raise BackupDamaged("decrypting the backup", str(error), _NEXT) from error


class _Keeping:
    def __init__(self, call: Callable[[Any], Any]) -> None:
        self._call = call
        self.error: BaseException | None = None

    def __call__(self, argument: Any) -> Any:
        try:
            return self._call(argument)
        except BaseException as error:
            self.error = error
            raise


class _Readable(io.RawIOBase):
    def __init__(self, read: Callable[[Any], Any]) -> None:
        self._read = read

    def read(self, size: int = -1) -> bytes:
        return bytes(self._read(size))


class _Writable(io.RawIOBase):
    def __init__(self, write: Callable[[Any], Any]) -> None:
        self._write = write

    def write(self, data: Any) -> int:
        self._write(bytes(data))
        return len(data)


class _Decompressing:
    """Takes compressed bytes, gives their content to a sink in bounded pieces."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._stream = zstandard.ZstdDecompressor().decompressobj(write_size=CHUNK_BYTES)

    def write(self, data: bytes) -> None:
        if content := self._stream.decompress(data):
            try:
                self._sink.write(content)
            except OSError as error:
                raise StoreUnavailable(
                    "unpacking a backup", str(error), "free space, or name another folder: --scratch"
                ) from error

    def finish(self) -> None:
        if not self._stream.eof:
            raise BackupDamaged("unpacking", "the compressed stream ends early", _NEXT)
