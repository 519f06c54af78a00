"""From an address or an inventory target to the store it means. The store modules are imported only when asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from homelab_pipelines.backup.errors import StoreRefused, StoreUnavailable
from homelab_pipelines.backup.stores.base import BackupStore

if TYPE_CHECKING:
    from homelab_pipelines.inventory.backups import DirectoryTarget, S3Target

_FORMS = "/folder, file:///folder or s3://bucket/prefix?endpoint=https://host:port&region=…&path_style=true"
_OPTIONS = ("endpoint", "region", "path_style")


def open_store(
    address: str, *, endpoint: str | None = None, region: str | None = None, name: str | None = None
) -> BackupStore:
    """The store at `address`, which needs no inventory: `/folder`, `file:///folder` or `s3://bucket/prefix?…`.

    An s3:// address may carry `endpoint`, `region` and `path_style` (by default true where there is an endpoint);
    `endpoint` and `region` given here come before those. Its credentials are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
    and, where set, AWS_SESSION_TOKEN of the environment. `name` is the store's name, by default the address without
    its options. Raises StoreRefused for an address that means nothing, StoreUnavailable for a folder that is not there.
    """
    if address.startswith("s3://"):
        return _open_bucket(address, endpoint, region, name)
    if address.startswith("file://"):
        parts = urlsplit(address)
        if parts.netloc not in ("", "localhost"):
            raise StoreRefused(f"opening {address}", f"a file on another machine ({parts.netloc})", f"write {_FORMS}")
        return _open_folder(unquote(parts.path), name)
    if "://" in address or not address.strip():
        shown = f"{address.partition('://')[0]}://…" if address.strip() else "an empty address"
        raise StoreRefused(f"opening {shown}", "not the address of a store", f"write {_FORMS}")
    return _open_folder(address, name)


def _open_folder(path: str, name: str | None) -> BackupStore:
    from homelab_pipelines.backup.stores.directory import DirectoryStore

    folder = Path(path).expanduser()
    if not os.path.isdir(folder):  # noqa: PTH112 - unlike Path.is_dir it is false, not an error, on a dead mount
        raise StoreUnavailable(f"opening {folder}", "there is no such folder", "mount it, or correct the address")
    return DirectoryStore(folder, name or str(folder))


def _open_bucket(address: str, endpoint: str | None, region: str | None, name: str | None) -> BackupStore:
    from homelab_pipelines.backup.stores.s3 import S3Store

    parts = urlsplit(address)
    bucket, prefix = parts.netloc.rpartition("@")[2], unquote(parts.path).strip("/")
    what = f"opening s3://{bucket}/{prefix}"
    if "@" in parts.netloc:
        raise StoreRefused(
            what, "an address holds no credentials", "put them into AWS_ACCESS_KEY_ID and _SECRET_ACCESS_KEY"
        )
    if not bucket:
        raise StoreRefused(what, "it names no bucket", f"write {_FORMS}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = [option for option in options if option not in _OPTIONS]
    if unknown:
        raise StoreRefused(what, f"the option {unknown[0]!r} is unknown", f"there are {', '.join(_OPTIONS)}")
    endpoint = endpoint or options.get("endpoint")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise StoreRefused(what, f"the endpoint {endpoint!r} is no URL", "write https://host:port")
    path_style = options.get("path_style", "true" if endpoint else "false").lower()
    if path_style not in ("true", "false"):
        raise StoreRefused(what, f"path_style is {path_style!r}", "write path_style=true or path_style=false")
    access_key, secret_key = (_variable(what, each) for each in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    return S3Store(
        bucket,
        prefix,
        name or f"s3://{bucket}/{prefix}".rstrip("/"),
        access_key=access_key,
        secret_key=secret_key,
        session_token=os.environ.get("AWS_SESSION_TOKEN") or None,
        endpoint=endpoint,
        region=region or options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        path_style=path_style == "true",
    )


def _variable(what: str, variable: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not value:
        raise StoreRefused(what, f"the environment variable {variable} is not set", f"export {variable}=…")
    return value


def store_for_target(name: str, target: DirectoryTarget | S3Target, base_dir: Path) -> BackupStore:
    """The store of the inventory's target `name`; `base_dir` is the folder of homelab.yaml.

    The limit of a target holds for all writers of one returned store. Raises StoreRefused when a secret cannot be had.
    """
    from homelab_pipelines.inventory.backups import DirectoryTarget

    if isinstance(target, DirectoryTarget):
        from homelab_pipelines.backup.stores.directory import DirectoryStore

        return DirectoryStore(base_dir / Path(target.directory).expanduser(), name, target.require_mount)
    return _store_for_bucket(name, target, base_dir)


def _store_for_bucket(name: str, target: S3Target, base_dir: Path) -> BackupStore:
    from homelab_pipelines.backup.stores.s3 import S3Store
    from homelab_pipelines.backup.stores.throttle import ThrottledStore
    from homelab_pipelines.inventory.secrets import SecretError

    try:
        access_key, secret_key = target.access_key.read(base_dir), target.secret_key.read(base_dir)
    except SecretError as error:
        raise StoreRefused(f"opening target {name}", *error.why_and_next("homelab check")) from None
    store = S3Store(
        target.bucket,
        target.prefix,
        name,
        access_key=access_key,
        secret_key=secret_key,
        endpoint=target.endpoint,
        region=target.region,
        path_style=target.uses_path_style,
        lock=target.lock,
    )
    return ThrottledStore(store, target.limit) if target.limit else store
