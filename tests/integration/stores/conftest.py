"""The stores that the conformance suite runs over, each with a way to look behind its back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from homelab_pipelines.backup.stores.base import BackupStore
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.backup.stores.s3 import S3Store
from homelab_pipelines.backup.stores.throttle import ThrottledStore
from tests.peers.faulty_proxy import FaultyProxy
from tests.peers.s3 import S3Server


def s3_store(server: S3Server, bucket: str, prefix: str = "house/backups", **options: Any) -> S3Store:
    """A store on the test server with time-outs fit for loopback; `options` replace any of it."""
    defaults: dict[str, Any] = {
        "access_key": server.access_key,
        "secret_key": server.secret_key,
        "endpoint": server.endpoint,
        "connect_timeout": 1,
        "read_timeout": 5,
        "attempts": 2,
    }
    return S3Store(bucket, prefix, "bucket", **(defaults | options))


@dataclass(frozen=True)
class Bench:
    """A store under test. `leftovers` lists what unfinished writes left; a child opens `address` with `environment`."""

    store: BackupStore
    leftovers: Callable[[], list[str]]
    address: str
    environment: dict[str, str]


def _directory_bench(root: Path, store: BackupStore) -> Bench:
    root.mkdir()
    return Bench(
        store,
        lambda: [str(path) for path in root.rglob("*") if path.name.startswith(".unfinished-")],
        str(root),
        dict(os.environ),
    )


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.s3), "throttled directory"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """Each kind of store, empty."""
    root = tmp_path / "store"
    if request.param == "directory":
        return _directory_bench(root, DirectoryStore(root, "nas"))
    if request.param == "throttled directory":
        return _directory_bench(root, ThrottledStore(DirectoryStore(root, "nas"), 200_000_000))
    server: S3Server = request.getfixturevalue("s3_server")
    bucket: str = request.getfixturevalue("s3_bucket")
    return Bench(
        s3_store(server, bucket),
        lambda: server.unfinished_uploads(bucket),
        f"s3://{bucket}/house/backups?endpoint={server.endpoint}",
        {**os.environ, "AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key},
    )


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    """A proxy before the S3 server, well-behaved at first."""
    with FaultyProxy(s3_server.port) as started:
        yield started
