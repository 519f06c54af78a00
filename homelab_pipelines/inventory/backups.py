"""The section `backups`: when, how, where to, for how long, and what is promised of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path as FilePath
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator

from homelab_pipelines.inventory.base import Items, Name, Section, one_kind, path_from
from homelab_pipelines.inventory.cron import check_cron, parse_cron
from homelab_pipelines.inventory.problems import Finding, Path, invalid
from homelab_pipelines.inventory.resources import RunResources
from homelab_pipelines.inventory.secrets import SecretReference
from homelab_pipelines.inventory.units import Duration, Rate, format_duration, format_rate

TARGET_KINDS = {"directory": "{directory: /mnt/nas/backups}", "s3": "{s3: s3://bucket/prefix, …}"}
# Naming rules: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET = re.compile("s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")


def _recipient(value: str) -> str:
    if value.upper().startswith("AGE-SECRET-KEY-"):
        raise invalid("this is a secret key; it must not stand here", "did you mean the public key: age-keygen -y FILE")
    import pyrage

    try:
        pyrage.x25519.Recipient.from_str(value)
    except pyrage.RecipientError:
        raise invalid(
            "not an age public key, or one with a mistake in it", "it starts with age1; age-keygen -y FILE prints it"
        ) from None
    return value


def _bucket(value: str) -> str:
    match = _BUCKET.fullmatch(value)
    if match is None:
        raise invalid("not a bucket", "write s3://bucket or s3://bucket/prefix; keys go to access_key and secret_key")
    prefix = (match[2] or "").removesuffix("/")
    if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
        raise invalid("a prefix has no empty parts, no . and no ..", "for example s3://bucket/homelab")
    return value.removesuffix("/")


def _endpoint(value: str) -> str:
    try:
        parts = urlsplit(value)
        well_formed = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        well_formed = False
    if not well_formed:
        raise invalid("not a URL", "write https://s3.example.net or http://192.168.1.20:9000")
    if parts.username or parts.password:
        raise invalid("a URL holds no user and no password here", "they go to access_key and secret_key")
    if parts.query or parts.fragment:
        raise invalid("a URL has nothing after its path here", "write https://s3.example.net")
    return value.rstrip("/")


def _directory(value: str) -> str:
    if value.startswith(("s3:", "s3 :")):
        raise invalid("not a directory", "for a bucket write s3: s3://bucket/prefix")
    if value.strip() and "\0" not in value:
        return value
    raise invalid("not a directory", "for example /mnt/nas/backups")


class Promise(Section):
    """What is promised of every backup; Dagster shows when it is broken."""

    age: Duration = Field(default=timedelta(hours=26), description="a newer backup than this always exists")
    restore_within: Duration = Field(default=timedelta(minutes=30), description="a restore takes no longer than this")


class Compression(Section):
    """How a dump is compressed."""

    zstd: int = Field(default=3, ge=1, le=19, description="level of zstd: 1 is fastest, 19 smallest")


class Keep(Section):
    """How many backups a target keeps: the newest ones, and the newest of each of the last days, weeks and so on."""

    last: int = Field(default=0, ge=0, description="newest backups, whatever their date")
    daily: int = Field(default=0, ge=0, description="days of which the newest backup is kept")
    weekly: int = Field(default=0, ge=0, description="weeks (from Monday) of which the newest backup is kept")
    monthly: int = Field(default=0, ge=0, description="months of which the newest backup is kept")
    yearly: int = Field(default=0, ge=0, description="years of which the newest backup is kept")

    @model_validator(mode="after")
    def _keeps_something(self) -> Self:
        if self.last or self.daily or self.weekly or self.monthly or self.yearly:
            return self
        raise invalid(
            "this would keep no backup at all", "for example {daily: 7, weekly: 4}; without keep all are kept"
        )


class _Target(Section):
    keep: Keep | None = Field(default=None, description="what to keep; without it nothing is ever deleted")
    floor: Rate | None = Field(
        default=None, description="a target slower than this is let go and filled afterwards from a finished copy"
    )
    site: Name | None = Field(default=None, description="where the target stands; copies at two sites survive a fire")


class DirectoryTarget(_Target):
    """A folder: a disk, or a mounted NAS."""

    directory: Annotated[str, AfterValidator(_directory)] = Field(
        description="folder; a relative one starts at the folder of homelab.yaml"
    )
    require_mount: bool = Field(
        default=False, description="refuse to write unless the marker file of the mounted disk is there"
    )

    def path(self, base_dir: FilePath) -> FilePath:
        """The folder; `base_dir` is the folder of homelab.yaml, ~ the home of who runs this."""
        return path_from(base_dir, self.directory)


class S3Target(_Target):
    """A bucket on an S3 server."""

    s3: Annotated[str, AfterValidator(_bucket)] = Field(description="s3://bucket or s3://bucket/prefix")
    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = Field(
        default=None, description="URL of the server; without it, Amazon's"
    )
    region: str = Field(default="us-east-1", min_length=1, description="region of the bucket")
    access_key: SecretReference = Field(description="access key id")
    secret_key: SecretReference = Field(description="secret access key")
    path_style: bool | None = Field(
        default=None, description="bucket in the path instead of the host name; by default where an endpoint is given"
    )
    limit: Rate | None = Field(default=None, description="upload no faster than this, for example 20MB/s")
    lock: Duration | None = Field(
        default=None, description="object lock: nobody can delete a backup for this long; the bucket must allow it"
    )

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.s3.removeprefix("s3://").partition("/")[0]

    @property
    def prefix(self) -> str:
        """What all keys start with, without a slash at either end; empty for the whole bucket."""
        return self.s3.removeprefix("s3://").partition("/")[2]

    @property
    def uses_path_style(self) -> bool:
        """`path_style`, or its default: true where an endpoint is given."""
        return self.endpoint is not None if self.path_style is None else self.path_style


def _target_kind(value: Any) -> str:
    is_bucket = isinstance(value, S3Target) or (isinstance(value, dict) and "s3" in value)
    return "<S3Target>" if is_bucket else "<DirectoryTarget>"


Target = Annotated[
    Annotated[DirectoryTarget, Tag("<DirectoryTarget>")] | Annotated[S3Target, Tag("<S3Target>")],
    Discriminator(_target_kind),
    BeforeValidator(lambda value: one_kind(value, TARGET_KINDS, "a target")),
]
Recipient = Annotated[
    str, AfterValidator(_recipient), WithJsonSchema({"type": "string", "pattern": "^age1[a-z0-9]{58}$"})
]
Cron = Annotated[
    str,
    AfterValidator(check_cron),
    WithJsonSchema({"type": "string", "pattern": r"^\s*\S+(\s+\S+){4}\s*$", "title": "cron expression"}),
]


class Backups(Section):
    """When backups are made, how, and where they go."""

    schedule: Cron = Field(
        default="0 2 * * *", description="cron expression (minute hour day month weekday) in the homelab's timezone"
    )
    promise: Promise = Field(default=Promise(), description="what is promised of every backup")
    compression: Compression = Field(default=Compression(), description="how dumps are compressed")
    encrypt_to: Items[Recipient] = Field(
        default=(), description="age public keys; each of their identities alone opens the backups; none: not encrypted"
    )
    identity: SecretReference | None = Field(
        default=None, description="age identity that opens the backups; only a verification and a restore need it"
    )
    grace: Duration = Field(
        default=timedelta(hours=24), description="age at which what an interrupted backup left behind is removed"
    )
    targets: dict[Name, Target] = Field(default={}, description="where every backup is written to")
    resources: RunResources = Field(
        default=RunResources(), description="what a run needs that backs up and verifies, in a container or pod"
    )


def findings(backups: Backups, base_dir: FilePath) -> Iterator[Finding]:
    """What the keys of `backups` disagree about among themselves; paths start at the section.

    `base_dir` is the folder of homelab.yaml.
    """
    if backups.encrypt_to and backups.identity is None:
        yield Finding(
            ("encrypt_to",),
            "encrypt_to: without an identity no backup could be verified by restoring it",
            "add identity: {file: secrets/age.key}, the file that age-keygen wrote for one of these keys",
            about=(("encrypt_to",), ("identity",)),
            at="key",
        )
    yield from _schedule_findings(backups)
    places: dict[tuple[str, ...], str] = {}
    for name, target in backups.targets.items():
        yield from _target_findings(("targets", name), target)
        kind = "s3" if isinstance(target, S3Target) else "directory"
        place = _place(target, base_dir)
        if place in places:
            yield Finding(
                ("targets", name, kind),
                f"{kind}: this is also target '{places[place]}': two copies in one place are one copy",
                "give each target a place of its own",
                about=(("targets", name, kind), ("targets", places[place])),
            )
        places.setdefault(place, name)


def _place(target: DirectoryTarget | S3Target, base_dir: FilePath) -> tuple[str, ...]:
    """What two targets in one place have in common, however each of them writes it. Touches no disk: a mount may hang.

    Links are therefore not followed, and two host names of one S3 server are two places.
    """
    if isinstance(target, DirectoryTarget):
        return "directory", os.path.abspath(target.path(base_dir))  # noqa: PTH100 - resolve() would touch the disk
    return "s3", _server(target.endpoint), target.bucket, target.prefix


def _server(endpoint: str | None) -> str:
    """Host and port of an S3 server; all of Amazon's are one, since a bucket's name is there only once."""
    if endpoint is None:
        return "amazonaws.com"
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    if host.endswith("amazonaws.com"):
        return "amazonaws.com"
    return f"{host}:{parts.port or (80 if parts.scheme == 'http' else 443)}"


def _schedule_findings(backups: Backups) -> Iterator[Finding]:
    gap, age = parse_cron(backups.schedule).longest_gap(), backups.promise.age
    if gap is not None and age <= gap:
        given = "age" in backups.promise.model_fields_set
        path: Path = ("promise", "age") if given else ("schedule",)
        yield Finding(
            path,
            f"{path[-1]}: a promised age of {format_duration(age)} is always broken by a schedule with up to "
            f"{format_duration(gap)} between two backups",
            f"promise more than {format_duration(gap)}, or make backups more often: a backup takes time, too",
            about=(("schedule",), ("promise", "age")),
        )


def _target_findings(path: Path, target: DirectoryTarget | S3Target) -> Iterator[Finding]:
    limit = target.limit if isinstance(target, S3Target) else None
    if limit is not None and target.floor is not None and target.floor >= limit:
        yield Finding(
            (*path, "floor"),
            f"floor: {format_rate(target.floor)} is not below the limit of {format_rate(limit)}: "
            "the target would always be let go",
            "write a floor well below the limit",
            about=((*path, "floor"), (*path, "limit")),
        )
