"""An S3 store on buckets that keep versions and lock objects."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from homelab_pipelines.backup.errors import StoreRefused
from homelab_pipelines.backup.stores.base import get, put
from tests.integration.stores.conftest import s3_store
from tests.peers.s3 import S3Server

pytestmark = pytest.mark.s3
MIB = 1 << 20


def versions(server: S3Server, bucket: str) -> list[str]:
    answer = server.client().list_object_versions(Bucket=bucket)
    return [each["Key"] for each in [*answer.get("Versions", []), *answer.get("DeleteMarkers", [])]]


@pytest.mark.parametrize("size", [10, 17 * MIB])
def test_locked_object_cannot_be_deleted_and_stays_visible(s3_server: S3Server, size: int) -> None:
    bucket = s3_server.make_bucket(lock=True)
    store = s3_store(s3_server, bucket, lock=timedelta(hours=1))
    store.check()
    assert versions(s3_server, bucket) == []
    put(store, "server/db/id/dump", bytes(size))
    held = s3_server.client().head_object(Bucket=bucket, Key="house/backups/server/db/id/dump")
    assert held["ObjectLockMode"] == "GOVERNANCE"
    left = held["ObjectLockRetainUntilDate"] - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    with pytest.raises(StoreRefused) as caught:
        store.delete("server/db/id/dump")
    assert f"locked until {held['ObjectLockRetainUntilDate'].astimezone(UTC):%Y-%m-%d %H:%M}" in str(caught.value)
    assert [listed.key for listed in store.scan()] == ["server/db/id/dump"]
    assert get(store, "server/db/id/dump") == bytes(size)


def test_lock_that_has_run_out_lets_the_object_go(s3_server: S3Server) -> None:
    bucket = s3_server.make_bucket(lock=True)
    put(s3_store(s3_server, bucket, lock=timedelta(seconds=1)), "a/b", b"x")
    store = s3_store(s3_server, bucket, lock=timedelta(hours=1))
    deadline = datetime.now(UTC) + timedelta(seconds=10)
    while versions(s3_server, bucket):
        try:
            store.delete("a/b")
        except StoreRefused as error:
            assert "locked until" in error.why
            assert datetime.now(UTC) < deadline
    assert list(store.scan()) == []


def test_lock_on_a_bucket_without_it_is_refused_with_what_to_do(s3_server: S3Server, s3_bucket: str) -> None:
    store = s3_store(s3_server, s3_bucket, lock=timedelta(days=30))
    with pytest.raises(StoreRefused) as caught:
        store.check()
    assert "has no object lock" in str(caught.value)
    assert "create a bucket with object lock" in caught.value.next_step
    store = s3_store(s3_server, s3_bucket, lock=timedelta(days=30))
    for size in (1, 9 * MIB):
        with pytest.raises(StoreRefused, match="has no object lock"):
            put(store, "a/b", bytes(size))
    assert list(store.scan()) == []
    assert s3_server.unfinished_uploads(s3_bucket) == []


def test_delete_in_a_versioned_bucket_removes_all_versions(s3_server: S3Server) -> None:
    bucket = s3_server.make_bucket(versions=True)
    store = s3_store(s3_server, bucket)
    for content in (b"first", b"second", b"third"):
        put(store, "a/b", content)
    put(store, "a/bc", b"another")
    s3_server.client().delete_object(Bucket=bucket, Key="house/backups/a/b")
    put(store, "a/b", b"fourth")
    assert versions(s3_server, bucket).count("house/backups/a/b") == 5
    store.delete("a/b")
    store.delete("a/b")
    assert versions(s3_server, bucket) == ["house/backups/a/bc"]


def test_refused_delete_never_brings_an_older_version_back(s3_server: S3Server) -> None:
    bucket = s3_server.make_bucket(lock=True)
    put(s3_store(s3_server, bucket, lock=timedelta(hours=1)), "a/b", b"older, locked")
    store = s3_store(s3_server, bucket)
    put(store, "a/b", b"newer, not locked")
    with pytest.raises(StoreRefused, match="locked until"):
        store.delete("a/b")
    assert get(store, "a/b") == b"newer, not locked"
