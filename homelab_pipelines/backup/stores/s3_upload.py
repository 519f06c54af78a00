"""One object on its way to S3: in one request when it is small, else in parts of which only one is held in memory."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from homelab_pipelines.backup.errors import BackupError, ObjectMissing, StoreRefused, StoreUnavailable
from homelab_pipelines.backup.stores.s3_errors import said

if TYPE_CHECKING:
    from types_boto3_s3.type_defs import CompletedPartTypeDef

    from homelab_pipelines.backup.stores.s3 import S3Store

MIB = 1 << 20
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html: 10,000 parts; all but the last at least 5 MiB.
MAX_PARTS = 10_000
MIN_PART = 8 * MIB
MAX_PART = 64 * MIB
_HINTED_PARTS = 5_000
_GROWTH_EVERY = 1_000


def part_bytes(number: int, expected_bytes: int = 0) -> int:
    """The size in bytes of part `number` (from 1) of an object that is expected to have `expected_bytes`.

    Parts are equal, as some servers insist, for the first 1,000 and up to a fifth more than expected (in at most 5,000
    parts, unless that takes more than 64 MiB each). Beyond, they double every 1,000 parts up to 64 MiB, the most ever
    held in memory. 10,000 parts thus hold 492 GiB without a hint, at least 270 GiB with any hint, at most 625 GiB.
    """
    hoped = math.ceil(expected_bytes * 1.2)
    first = min(max(math.ceil(hoped / _HINTED_PARTS), MIN_PART), MAX_PART)
    equal = max(_GROWTH_EVERY, math.ceil(hoped / first))
    doublings = 0 if number <= equal else 1 + (number - equal - 1) // _GROWTH_EVERY
    return min(first << doublings, MAX_PART)


class SentBody(io.BytesIO):
    """A request's body that tells `count` how much the connection reads of it, once it is said to be `on_its_way`.

    A file, which urllib3 sends in small pieces: without TLS the time-out holds for each send, and a body sent in one
    piece would have to go out within it. Other readings, for a signature, come before; a repeated request rewinds it.
    """

    def __init__(self, count: Callable[[int], None]) -> None:
        super().__init__()
        self.on_its_way = False
        self._count = count

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self.on_its_way:
            self._count(len(data))
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self.on_its_way = False
        return super().seek(offset, whence)


class S3Writer:
    """A Writer that uploads parts as they fill, one at a time, each with a CRC32 that the server verifies."""

    def __init__(self, store: S3Store, key: str, expected_bytes: int) -> None:
        self._store, self._key, self._expected = store, key, expected_bytes
        self._what = f"writing {store.location(key)}"
        self.sent = 0
        self._part = SentBody(self._count)
        self._bytes = 0
        self._parts: list[CompletedPartTypeDef] = []
        self._part_checksums = b""
        self._upload_id: str | None = None
        self._done = False

    def write(self, data: bytes | memoryview) -> None:
        if self._done:
            raise ValueError(f"{self._what} after its commit or abort")
        with memoryview(data) as view, view.cast("B") as rest:
            taken = 0
            while taken < len(rest):
                room = part_bytes(len(self._parts) + 1, self._expected) - self._part.tell()
                if room == 0:
                    self._send_part()
                    continue
                taken += self._part.write(rest[taken : taken + room])

    def commit(self) -> None:
        if self._done:
            raise ValueError(f"{self._what} after its commit or abort")
        try:
            checksum = self._finish_parts() if self._upload_id else self._put_whole()
            self._compare(checksum)
        except BackupError:
            self.abort()
            raise
        self._upload_id, self._done, self._part = None, True, SentBody(self._count)

    def abort(self) -> None:
        self._done, self._part = True, SentBody(self._count)
        if self._upload_id:
            # Should the server be away, `sweep` finds the upload later.
            with suppress(BackupError):
                self._store.abort_upload(self._store.full_key(self._key), self._upload_id)
            self._upload_id = None

    def _send_part(self) -> None:
        number = len(self._parts) + 1
        try:
            if number > MAX_PARTS:
                why = f"it is larger than {self._bytes} bytes, the most that {MAX_PARTS} parts of {MAX_PART} bytes hold"
                raise StoreRefused(self._what, why, "back it up to a directory target")
            if self._upload_id is None:
                with self._store.explained(self._what):
                    answer = self._store.client.create_multipart_upload(
                        **self._address(), ChecksumAlgorithm="CRC32", **self._store.lock_arguments()
                    )
                self._upload_id = said(answer, "UploadId", self._what)
            size, checksum, encoded = self._rewind()
            with self._store.explained(self._what):
                part = self._store.client.upload_part(
                    **self._address(),
                    UploadId=self._upload_id,
                    PartNumber=number,
                    Body=self._part,
                    ChecksumCRC32=encoded,
                )
            self._confirm(part, encoded)
        except BackupError:
            self.abort()
            raise
        self._parts.append({"PartNumber": number, "ETag": part["ETag"], "ChecksumCRC32": encoded})
        self._part_checksums += checksum
        self._bytes += size
        self._part = SentBody(self._count)

    def _put_whole(self) -> str:
        self._bytes, _, encoded = self._rewind()
        with self._store.explained(self._what):
            answer = self._store.client.put_object(
                **self._address(), Body=self._part, ChecksumCRC32=encoded, **self._store.lock_arguments()
            )
        self._confirm(answer, encoded)
        return encoded

    def _finish_parts(self) -> str:
        if self._part.tell():
            self._send_part()
        try:
            with self._store.explained(self._what):
                self._store.client.complete_multipart_upload(
                    **self._address(), UploadId=self._upload_id or "", MultipartUpload={"Parts": self._parts}
                )
        except StoreUnavailable as error:
            # A lost answer: the upload may be complete, and a repeated request then finds none. `_compare` decides.
            if "NoSuchUpload" not in error.why:
                raise
        # A composite checksum is the checksum of the parts' checksums, and their number.
        composite = base64.b64encode(zlib.crc32(self._part_checksums).to_bytes(4, "big")).decode()
        return f"{composite}-{len(self._parts)}"

    def _confirm(self, answer: Mapping[str, Any], checksum: str) -> None:
        """Raise unless the server says that it holds what was sent: by CRC32, or by MD5 as the ETag."""
        held = answer.get("ChecksumCRC32")
        if held == checksum:
            return
        if held:
            raise StoreUnavailable(self._what, f"the server holds CRC32 {held}, sent was {checksum}", "try again")
        tag = str(said(answer, "ETag", self._what)).strip('"')
        with self._part.getbuffer() as data:
            if tag == hashlib.md5(data, usedforsecurity=False).hexdigest():
                return
        why = "the server confirmed what it holds neither by CRC32 nor by MD5"
        raise StoreRefused(self._what, why, "update the server to one that verifies x-amz-checksum-crc32")

    def _compare(self, checksum: str) -> None:
        """Raise unless the finished object has the size, and where the server tells the checksum, that was sent."""
        next_step = "run the backup again; if it stays so, look at the server's log"
        try:
            with self._store.explained(self._what):
                held = self._store.client.head_object(**self._address(), ChecksumMode="ENABLED")
        except ObjectMissing as error:
            raise StoreUnavailable(self._what, "the server has lost the finished object", next_step) from error
        size = said(held, "ContentLength", self._what)
        held_checksum: str | None = held.get("ChecksumCRC32")
        if self._parts and "-" not in (held_checksum or ""):
            held_checksum = None  # a server that made a checksum of the whole, which parts cannot be compared with
        if size != self._bytes or (held_checksum and held_checksum != checksum):
            why = f"the server holds {size} bytes (CRC32 {held_checksum}), sent were {self._bytes} ({checksum})"
            with suppress(BackupError):
                self._store.delete(self._key)
            raise StoreUnavailable(self._what, why, next_step)

    def _rewind(self) -> tuple[int, bytes, str]:
        """Set the part to its start; its size, its CRC32 as bytes, and that in Base64."""
        size = self._part.tell()
        self._part.seek(0)
        with self._part.getbuffer() as data:
            checksum = zlib.crc32(data).to_bytes(4, "big")
        return size, checksum, base64.b64encode(checksum).decode()

    def _count(self, sent: int) -> None:
        self.sent += sent

    def _address(self) -> dict[str, Any]:
        return {"Bucket": self._store.bucket, "Key": self._store.full_key(self._key)}
