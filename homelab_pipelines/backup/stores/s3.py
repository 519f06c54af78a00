"""Backups in an S3 bucket: AWS, MinIO, Garage, Ceph, versitygw and others, spoken to through boto3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from homelab_pipelines.backup.errors import BackupError, ObjectMissing, StoreRefused, StoreUnavailable
from homelab_pipelines.backup.stores.base import Listed
from homelab_pipelines.backup.stores.keys import MAX_KEY_BYTES, checked_key
from homelab_pipelines.backup.stores.s3_errors import explain_answer, explain_silence, said
from homelab_pipelines.backup.stores.s3_upload import S3Writer, SentBody

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from types_boto3_s3.client import S3Client

_PROBE = "homelab-check"
_LOCK_NEXT = (
    "create a bucket with object lock (it cannot be added to every existing one), or take `lock` out of this target"
)


class _S3Reader:
    def __init__(self, store: S3Store, what: str, body: StreamingBody, length: int) -> None:
        self._store, self._what, self._body, self._length = store, what, body, length
        self._read = 0

    def read(self, size: int, /) -> bytes:
        with self._store.explained(self._what):
            data = self._body.read(size)
        self._read += len(data)
        if not data and size > 0 and self._read != self._length:
            why = f"the answer ended after {self._read} of {self._length} bytes"
            raise StoreUnavailable(self._what, why, "try again")
        return data


class S3Store:
    """A BackupStore under `prefix` of a bucket. Nothing is sent before the first call.

    `endpoint` None means AWS, or what the AWS configuration names. With `lock`, every object is written under object
    lock in `lock_mode` for that long. The time-outs are seconds; a request is tried `attempts` times, so a server that
    does not answer costs at most `attempts * (connect_timeout + read_timeout)` and a few seconds of waiting; `check`
    and the abort of a write try at most twice and wait `connect_timeout` for an answer. Memory: one part, 8 to 64 MiB
    (see `part_bytes`).
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        name: str,
        *,
        access_key: str,
        secret_key: str,
        session_token: str | None = None,
        endpoint: str | None = None,
        region: str | None = None,
        path_style: bool = True,
        lock: timedelta | None = None,
        lock_mode: Literal["GOVERNANCE", "COMPLIANCE"] = "GOVERNANCE",
        connect_timeout: float = 5,
        read_timeout: float = 60,
        attempts: int = 3,
    ) -> None:
        self.bucket, self.prefix = bucket, prefix.strip("/")
        self._name, self._endpoint, self._region, self._path_style = name, endpoint, region, path_style
        self._access_key, self._secret_key, self._session_token = access_key, secret_key, session_token
        self._lock, self._lock_mode = lock, lock_mode
        self._lock_possible: bool | None = None
        self._connect_timeout, self._read_timeout, self._attempts = connect_timeout, read_timeout, attempts

    def __repr__(self) -> str:
        return f"S3Store({self.location('')!r}, name={self._name!r}, endpoint={self._endpoint!r}, secret_key=…)"

    @property
    def name(self) -> str:
        """The target's name in the inventory, or its address."""
        return self._name

    @cached_property
    def client(self) -> S3Client:
        """The boto3 client for what may take its time."""
        return self._new_client(self._read_timeout, self._attempts)

    @cached_property
    def quick_client(self) -> S3Client:
        """The boto3 client for what a dead server must not hold up: `check`, and giving an upload up."""
        return self._new_client(self._connect_timeout, min(self._attempts, 2))

    def _new_client(self, read_timeout: float, attempts: int) -> S3Client:
        import boto3.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        config = Config(
            connect_timeout=self._connect_timeout,
            read_timeout=read_timeout,
            retries={"mode": "adaptive", "total_max_attempts": attempts},
            s3={"addressing_style": "path" if self._path_style else "virtual"},
            # Checksums are given to each write as a header, which older servers understand; trailers they do not.
            # What is read is judged by the SHA-256 of the manifest.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        what = f"using {self.location('')}"
        try:
            # A session of its own: boto3's default session is not safe to use from several threads.
            client = boto3.session.Session().client(
                "s3",
                endpoint_url=self._endpoint,
                region_name=self._region or "us-east-1",
                aws_access_key_id=self._access_key,
                aws_secret_access_key=self._secret_key,
                aws_session_token=self._session_token,
                config=config,
            )
            client.meta.events.register("request-created.s3", _without_expect)
            client.meta.events.register("before-send.s3", _on_its_way)
            return client
        except (BotoCoreError, ValueError) as error:  # ValueError: "Invalid endpoint: …"
            raise explain_silence(error, what, self._host(), self._secret_key) from None

    def check(self) -> None:
        """Begin and abort an upload: proves reach, credentials, bucket, permission and object lock, leaves nothing."""
        what = f"checking {self.location('')}"
        client = self.quick_client
        address: dict[str, Any] = {"Bucket": self.bucket, "Key": self.full_key(_PROBE)}
        with self.explained(what):
            client.list_objects_v2(Bucket=self.bucket, Prefix=self._root(), MaxKeys=1)
            self._lock_possible = self._bucket_locks(client) if self._lock else None
            upload = client.create_multipart_upload(**address, ChecksumAlgorithm="CRC32", **self.lock_arguments())
            client.abort_multipart_upload(**address, UploadId=said(upload, "UploadId", what))

    def _bucket_locks(self, client: S3Client) -> bool:
        from botocore.exceptions import ClientError

        try:
            answer = client.get_object_lock_configuration(Bucket=self.bucket)
        except ClientError as error:
            # Servers without object lock answer NotImplemented or the like; those that deny the question answer 403.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 403 or _code(error) == "NoSuchBucket":
                raise
            return False
        return answer["ObjectLockConfiguration"].get("ObjectLockEnabled") == "Enabled"

    def scan(self, prefix: str = "") -> Iterator[Listed]:
        """Finished objects whose key starts with `prefix`. Raises StoreUnavailable or StoreRefused."""
        start, what = self._root(), f"listing {self.location(prefix)}"
        with self.explained(what):
            for page in self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=start + prefix
            ):
                said(page, "IsTruncated", what)
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):  # folders, as the web consoles of some servers make them
                        modified = item["LastModified"].astimezone(UTC)
                        yield Listed(item["Key"].removeprefix(start), item["Size"], modified)

    def writer(self, key: str, expected_bytes: int = 0) -> S3Writer:
        """Start to write an object. Nothing is sent before the first part is full, or `commit`."""
        self.full_key(key)
        return S3Writer(self, key, expected_bytes)

    @contextmanager
    def open(self, key: str) -> Iterator[_S3Reader]:
        """Read an object. Raises ObjectMissing, StoreUnavailable or StoreRefused."""
        what = f"reading {self.location(key)}"
        with self.explained(what):
            answer = self.client.get_object(Bucket=self.bucket, Key=self.full_key(key))
        try:
            yield _S3Reader(self, what, answer["Body"], said(answer, "ContentLength", what))
        finally:
            answer["Body"].close()

    def delete(self, key: str) -> None:
        """Remove an object with all its versions; no error when there is none. Raises StoreRefused if locked."""
        what, full = f"deleting {self.location(key)}", self.full_key(key)
        version: str | None = None
        try:
            with self.explained(what):
                if not self._versioned:
                    self.client.delete_object(Bucket=self.bucket, Key=full)
                    return
                for version in self._versions(full):
                    self.client.delete_object(Bucket=self.bucket, Key=full, VersionId=version)
        except ObjectMissing:
            return
        except StoreRefused as refusal:
            until = self._locked_until(full, version)
            if until is None:
                raise
            why = f"locked until {until:%Y-%m-%d %H:%M:%S} UTC by object lock"
            raise StoreRefused(what, why, "wait until then; homelab prune will try again") from refusal

    @cached_property
    def _versioned(self) -> bool:
        """Whether the bucket keeps versions; taken as not where the server does not tell."""
        from botocore.exceptions import ClientError

        try:
            return "Status" in self.client.get_bucket_versioning(Bucket=self.bucket)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (403, 405, 501) and _code(error) in (
                "AccessDenied",
                "MethodNotAllowed",
                "NotImplemented",
            ):
                return False
            raise

    def _versions(self, full_key: str) -> list[str]:
        """Version ids of a key, oldest first and delete markers last, so that a refusal leaves the newest visible."""
        versions: list[str] = []
        markers: list[str] = []
        for page in self.client.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=full_key):
            versions += [each["VersionId"] for each in page.get("Versions", []) if each["Key"] == full_key]
            markers += [each["VersionId"] for each in page.get("DeleteMarkers", []) if each["Key"] == full_key]
        return [*reversed(versions), *reversed(markers)]

    def _locked_until(self, full_key: str, version: str | None) -> datetime | None:
        arguments: dict[str, Any] = {"Bucket": self.bucket, "Key": full_key}
        if version:
            arguments["VersionId"] = version
        try:
            with self.explained("reading the retention"):
                answer = self.client.get_object_retention(**arguments)
        except BackupError:
            return None
        until = answer.get("Retention", {}).get("RetainUntilDate")
        return until.astimezone(UTC) if until and until > datetime.now(UTC) else None

    def sweep(self, older_than: timedelta, now: datetime) -> list[str]:
        """Abort uploads under the prefix that began before `now - older_than`; one line for each."""
        lines = []
        with self.explained(f"sweeping {self.location('')}"):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket, Prefix=self._root()
            )
            stale = [
                upload for page in pages for upload in page.get("Uploads", []) if upload["Initiated"] < now - older_than
            ]
        for upload in stale:
            self.abort_upload(upload["Key"], upload["UploadId"])
            began = upload["Initiated"].astimezone(UTC)
            lines.append(
                f"aborted the upload of s3://{self.bucket}/{upload['Key']} begun {began:%Y-%m-%d %H:%M:%S} UTC"
            )
        return lines

    def abort_upload(self, full_key: str, upload_id: str) -> None:
        """Abort a multipart upload; no error when there is none."""
        from botocore.exceptions import ClientError

        with self.explained(f"aborting the upload of s3://{self.bucket}/{full_key}"):
            try:
                self.quick_client.abort_multipart_upload(Bucket=self.bucket, Key=full_key, UploadId=upload_id)
            except ClientError as error:
                if _code(error) != "NoSuchUpload":
                    raise

    def location(self, key: str) -> str:
        """The s3:// address of the object."""
        return f"s3://{self.bucket}/{self._root()}{key}"

    def full_key(self, key: str) -> str:
        """The key in the bucket. Raises StoreRefused for a key that no store accepts."""
        full = self._root() + checked_key(key, self.location(""))
        if len(full.encode()) > MAX_KEY_BYTES:
            why = f"with the prefix it has {len(full.encode())} bytes, more than {MAX_KEY_BYTES}"
            raise StoreRefused(f"using the key {key!r} in {self.location('')}", why, "use a shorter prefix")
        return full

    def lock_arguments(self) -> dict[str, Any]:
        """What a write adds to ask for object lock; empty without `lock`. Raises StoreRefused if the bucket has none.

        Some servers refuse such a write only after they stored the object, so the bucket is asked first.
        """
        if not self._lock:
            return {}
        what = f"locking objects in {self.location('')}"
        if self._lock_possible is None:
            with self.explained(what):
                self._lock_possible = self._bucket_locks(self.client)
        if not self._lock_possible:
            raise StoreRefused(what, f"`lock` is set, and the bucket {self.bucket} has no object lock", _LOCK_NEXT)
        return {"ObjectLockMode": self._lock_mode, "ObjectLockRetainUntilDate": datetime.now(UTC) + self._lock}

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Turn what boto3 raises inside into StoreUnavailable, StoreRefused or ObjectMissing."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ClientError as error:
            raise explain_answer(error, what, self._secret_key) from None
        except BotoCoreError as error:
            raise explain_silence(error, what, self._host(), self._secret_key) from None
        except RecursionError:
            # botocore follows a redirect without a region by a request that is redirected, and so on.
            why = f"{self._host()} redirects every request, as a web page does"
            raise StoreRefused(what, why, "correct the endpoint: https:// for http://, or the port of S3") from None
        except (HTTPError, OSError) as error:
            # While a body is read, urllib3's own errors come through.
            raise explain_silence(HTTPClientError(error=error), what, self._host(), self._secret_key) from None

    def _host(self) -> str:
        if not self._endpoint:
            return f"S3 in region {self._region}" if self._region else "S3"
        return urlsplit(self._endpoint).netloc.rpartition("@")[2] or self._endpoint

    def _root(self) -> str:
        return f"{self.prefix}/" if self.prefix else ""


def _without_expect(request: Any, **_: Any) -> None:
    """Drop `Expect: 100-continue`, which costs a round trip for each part.

    Worse, botocore 1.43 reads the answer to it in a loop without end when the connection closes in its middle
    (botocore/awsrequest.py, `_consume_headers`).
    """
    if "Expect" in request.headers:
        del request.headers["Expect"]


def _on_its_way(request: Any, **_: Any) -> None:
    """Tell a body that it is now read to be sent; an answer here would stand for the server's."""
    if isinstance(request.body, SentBody):
        request.body.on_its_way = True


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
