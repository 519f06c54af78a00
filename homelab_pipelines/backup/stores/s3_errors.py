"""What went wrong at an S3 server, said so that a user can act on it. No secret ever stands in a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from homelab_pipelines.backup.errors import BackupError, ObjectMissing, StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

_CREDENTIALS = "put the right access key and secret key where homelab.yaml or the environment refers to"
_LATER = "try again later; if it stays so, look at the server's log"
# Codes of https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and a few of other servers.
_CODES: dict[str, tuple[type[BackupError], str, str]] = {
    "InvalidAccessKeyId": (StoreRefused, "the server does not know this access key", _CREDENTIALS),
    "SignatureDoesNotMatch": (StoreRefused, "the secret key does not fit the access key", _CREDENTIALS),
    "ExpiredToken": (StoreRefused, "the session token has expired", _CREDENTIALS),
    "InvalidToken": (StoreRefused, "the session token is not valid", _CREDENTIALS),
    "RequestTimeTooSkewed": (StoreRefused, "this machine's clock and the server's differ too much", "timedatectl"),
    "AuthorizationHeaderMalformed": (StoreRefused, "the region is not the bucket's", "set `region` to the bucket's"),
    "PermanentRedirect": (
        StoreRefused,
        "the bucket is in another region",
        "set `region` and `endpoint` to the bucket's",
    ),
    "InvalidBucketName": (StoreRefused, "the server does not accept this bucket name", "correct the bucket's name"),
    "XAdminUserNotFound": (StoreRefused, "the server does not know this access key", _CREDENTIALS),  # versitygw
    "NoSuchBucket": (StoreRefused, "there is no such bucket", "create the bucket, or correct its name"),
    "NoSuchKey": (ObjectMissing, "there is no such object", "homelab backups shows what there is"),
    "NoSuchVersion": (ObjectMissing, "there is no such object", "homelab backups shows what there is"),
    "InvalidObjectState": (StoreRefused, "the object is archived", "bring it back from the archive tier first"),
    "NoSuchUpload": (StoreUnavailable, "the unfinished upload was aborted at the server", "start the backup again"),
    "BadDigest": (StoreUnavailable, "what arrived is not what was sent: the checksums differ", _LATER),
    "XAmzContentSHA256Mismatch": (StoreUnavailable, "what arrived is not what was sent: the checksums differ", _LATER),
    "RequestTimeout": (StoreUnavailable, "the connection was too slow for the server", _LATER),
    "SlowDown": (StoreUnavailable, "the server asks to slow down", _LATER),
    "XMinioStorageFull": (StoreUnavailable, "no space is left at the server", "free space there, or homelab prune"),
    "QuotaExceeded": (StoreUnavailable, "the quota is used up", "raise it, or keep fewer backups: homelab prune"),
}
_STATUSES: dict[int, tuple[type[BackupError], str, str]] = {
    301: _CODES["PermanentRedirect"],
    401: (StoreRefused, "the server does not accept the credentials", _CREDENTIALS),
    403: (
        StoreRefused,
        "access denied",
        "check both keys, and that they may ListBucket, GetObject, PutObject, DeleteObject, AbortMultipartUpload, "
        "ListMultipartUploadParts and ListBucketMultipartUploads on this bucket",
    ),
    404: (StoreRefused, "the server knows no such place", "check endpoint and bucket: is an S3 server there?"),
    429: _CODES["SlowDown"],
    507: _CODES["XMinioStorageFull"],
}
_CHECKSUM_NEEDED = "this store needs a server that verifies CRC32 checksums (x-amz-checksum-crc32): update the server"


def explain_answer(error: ClientError, what: str, secret: str) -> BackupError:
    """The error for a request that the server answered with an error."""
    answer = error.response.get("Error", {})
    code = str(answer.get("Code", ""))
    message = str(answer.get("Message", "")).replace(secret, "(secret)")
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if "checksum" in message.lower() and code not in _CODES and status in (400, 501):
        return StoreRefused(what, f"the server rejected the checksum: {message} ({code})", _CHECKSUM_NEEDED)
    if status == 404 and error.operation_name == "HeadObject":
        code = "NoSuchKey"  # the answer to HEAD has no body that could say so
    kind, why, next_step = _CODES.get(code) or _STATUSES.get(status) or _by_class(status)
    said = ", ".join(part for part in (f"HTTP {status}", code if code != str(status) else "", message) if part)
    return kind(what, f"{why} ({said})", next_step)


def _by_class(status: int) -> tuple[type[BackupError], str, str]:
    if status >= 500 or status == 0:
        return StoreUnavailable, "the server failed", _LATER
    return StoreRefused, "the server refused", "correct what the server names"


def explain_silence(error: BotoCoreError | ValueError, what: str, where: str, secret: str) -> BackupError:
    """The error for a request that got no answer, or that could not be sent; `where` names the endpoint."""
    from botocore import exceptions as botocore
    from botocore.parsers import ResponseParserError

    text = str(error).replace(secret, "(secret)")[:500]
    if isinstance(error, (botocore.ParamValidationError, ValueError)):
        return StoreRefused(what, text, "correct the bucket or the endpoint (https://host:port)")
    if isinstance(error, ResponseParserError):
        return StoreRefused(what, f"{where} does not answer as an S3 server does", "correct the endpoint")
    if isinstance(error, botocore.SSLError):
        next_step = "use a certificate this machine trusts (AWS_CA_BUNDLE names a file of further authorities)"
        return StoreUnavailable(what, f"{where}: no secure connection: {text}", next_step)
    if isinstance(error, (botocore.ConnectTimeoutError, botocore.ReadTimeoutError)):
        return StoreUnavailable(what, f"{where} does not answer in time", "look after the network and the server")
    if isinstance(error, botocore.EndpointConnectionError):
        return StoreUnavailable(what, f"{where} cannot be reached: {text}", "start the server, or correct the endpoint")
    return StoreUnavailable(what, f"{where}: the connection broke: {text}", "look after the network and the server")


def said(answer: Mapping[str, Any], field: str, what: str) -> Any:
    """A field that every whole answer has. Raises StoreUnavailable without it.

    An answer that broke off in its head reaches us as one with status 200 and no fields; a listing would seem empty.
    """
    if field not in answer:
        raise StoreUnavailable(what, f"the server's answer broke off: it has no {field}", "try again")
    return answer[field]
