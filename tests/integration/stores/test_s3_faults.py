"""An S3 store before servers and networks that fail: what it says, how soon, and what it leaves."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from homelab_pipelines.backup.errors import BackupError, ObjectMissing, StoreRefused, StoreUnavailable
from homelab_pipelines.backup.stores.base import get, put
from homelab_pipelines.backup.stores.s3 import S3Store
from tests.integration.stores.conftest import s3_store
from tests.peers.faulty_proxy import FaultyProxy, HttpAnswer
from tests.peers.ports import free_port
from tests.peers.s3 import S3Server

pytestmark = pytest.mark.s3
MIB = 1 << 20


def all_calls(store: S3Store) -> list[Callable[[], object]]:
    return [
        store.check,
        lambda: put(store, "a/b", b"x"),
        lambda: put(store, "a/big", bytes(9 * MIB)),
        lambda: get(store, "a/b"),
        lambda: list(store.scan()),
        lambda: store.delete("a/b"),
        lambda: store.sweep(timedelta(), datetime.now(UTC)),
    ]


def refusals(store: S3Store, kind: type[BackupError], secret: str) -> list[str]:
    """The message of every call of the store, each of which must raise `kind` within ten seconds."""
    messages = []
    for call in all_calls(store):
        began = time.monotonic()
        with pytest.raises(kind) as caught:
            call()
        assert time.monotonic() - began < 10
        assert secret not in str(caught.value)
        assert secret not in repr(caught.value)
        assert caught.value.next_step
        messages.append(str(caught.value))
    return messages


def test_nothing_listening_is_unavailable_soon(s3_server: S3Server) -> None:
    store = s3_store(s3_server, "bucket", endpoint=f"http://127.0.0.1:{free_port()}")
    for message in refusals(store, StoreUnavailable, s3_server.secret_key):
        assert "cannot be reached" in message


def test_server_that_never_answers_is_unavailable_soon(s3_server: S3Server, proxy: FaultyProxy) -> None:
    proxy.set("black hole")
    store = s3_store(s3_server, "bucket", endpoint=proxy.endpoint, read_timeout=0.5)
    for message in refusals(store, StoreUnavailable, s3_server.secret_key):
        assert "does not answer in time" in message


def test_check_of_a_server_that_never_answers_waits_the_connect_timeout_only(
    s3_server: S3Server, proxy: FaultyProxy
) -> None:
    proxy.set("black hole")
    store = s3_store(s3_server, "bucket", endpoint=proxy.endpoint, read_timeout=60)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="does not answer in time"):
        store.check()
    assert time.monotonic() - began < 5


def test_server_that_answers_503_is_unavailable(s3_server: S3Server, s3_bucket: str, proxy: FaultyProxy) -> None:
    proxy.set("503")
    for message in refusals(
        s3_store(s3_server, s3_bucket, endpoint=proxy.endpoint), StoreUnavailable, s3_server.secret_key
    ):
        assert "HTTP 503" in message


def test_short_503_is_overcome_by_the_second_attempt(s3_server: S3Server, s3_bucket: str, proxy: FaultyProxy) -> None:
    store = s3_store(s3_server, s3_bucket, endpoint=proxy.endpoint, attempts=10)
    proxy.set("503")
    writer = store.writer("a/b")
    writer.write(b"x")
    recovery = _later(0.7, lambda: proxy.set("pass"))
    writer.commit()
    recovery.join()
    assert get(store, "a/b") == b"x"


def _later(seconds: float, action: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


@pytest.mark.parametrize(("change", "why"), [("secret_key", "secret key does not fit"), ("access_key", "not know")])
def test_wrong_credentials_are_refused(s3_server: S3Server, s3_bucket: str, change: str, why: str) -> None:
    store = s3_store(s3_server, s3_bucket, **{change: "wrong-and-secret"})
    for message in refusals(store, StoreRefused, "wrong-and-secret"):
        assert why in message
    assert "wrong-and-secret" not in repr(store)


def test_missing_bucket_is_refused(s3_server: S3Server) -> None:
    for message in refusals(s3_store(s3_server, "not-made-yet"), StoreRefused, s3_server.secret_key):
        assert "there is no such bucket" in message


def test_impossible_bucket_name_is_refused(s3_server: S3Server) -> None:
    refusals(s3_store(s3_server, "No Such/Name"), StoreRefused, s3_server.secret_key)


def test_impossible_endpoint_is_refused(s3_server: S3Server) -> None:
    refusals(s3_store(s3_server, "bucket", endpoint="nas.local:9000"), StoreRefused, s3_server.secret_key)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 404 Not Found", "the server knows no such place"),
        (b"HTTP/1.1 302 Found\r\nLocation: /ui", "redirects every request"),
        (b"HTTP/1.1 200 OK", "the server failed"),  # botocore makes 500 of a page that is not XML
    ],
)
def test_web_server_that_is_no_s3_server_fails_the_check(s3_server: S3Server, answer: bytes, why: str) -> None:
    page = b"<html><p>Welcome to your NAS"
    whole = answer + b"\r\nContent-Length: %d\r\n\r\n" % len(page) + page
    with HttpAnswer(whole) as server, pytest.raises((StoreRefused, StoreUnavailable), match=why):
        s3_store(s3_server, "bucket", endpoint=server.endpoint).check()


def test_plain_http_where_tls_was_asked_for_is_said(s3_server: S3Server) -> None:
    store = s3_store(s3_server, "bucket", endpoint=f"https://127.0.0.1:{s3_server.port}")
    with pytest.raises(StoreUnavailable, match="no secure connection"):
        store.check()


@pytest.mark.parametrize("after", [100_000, 9 * MIB])
def test_connections_reset_in_mid_upload_leave_nothing(
    s3_server: S3Server, s3_bucket: str, proxy: FaultyProxy, after: int
) -> None:
    store = s3_store(s3_server, s3_bucket, endpoint=proxy.endpoint)
    writer = store.writer("server/db/id/dump")
    proxy.set("reset", after)
    with pytest.raises(StoreUnavailable, match="connection broke"):
        for _ in range(20):
            writer.write(os.urandom(MIB))
        writer.commit()
    proxy.set("pass")
    assert list(store.scan()) == []
    store.sweep(timedelta(), datetime.now(UTC) + timedelta(minutes=1))
    assert s3_server.unfinished_uploads(s3_bucket) == []


def test_one_reset_in_mid_upload_is_overcome(s3_server: S3Server, s3_bucket: str, proxy: FaultyProxy) -> None:
    store = s3_store(s3_server, s3_bucket, endpoint=proxy.endpoint, attempts=5)
    data = os.urandom(30 * MIB)
    proxy.set("reset", 12 * MIB)
    watch = _when(lambda: proxy.connections > 1, lambda: proxy.set("pass"))
    put(store, "server/db/id/dump", data)
    watch.join()
    assert get(store, "server/db/id/dump") == data


def _when(condition: Callable[[], bool], action: Callable[[], None]) -> threading.Thread:
    def wait() -> None:
        deadline = time.monotonic() + 20
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.005)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_slow_uplink_is_no_time_out_while_bytes_flow(s3_server: S3Server, s3_bucket: str, proxy: FaultyProxy) -> None:
    store = s3_store(s3_server, s3_bucket, endpoint=proxy.endpoint, connect_timeout=1, read_timeout=2, attempts=1)
    proxy.set("slow", 4 * MIB)
    began = time.monotonic()
    put(store, "a/b", bytes(16 * MIB))
    assert time.monotonic() - began > 3
    with store.open("a/b") as reader:
        assert reader.read(MIB)


@pytest.mark.parametrize("mode", ["cut", "reset"])
def test_answer_cut_short_is_an_error_not_an_end(
    s3_server: S3Server, s3_bucket: str, proxy: FaultyProxy, mode: str
) -> None:
    store = s3_store(s3_server, s3_bucket, endpoint=proxy.endpoint)
    put(store, "server/db/id/dump", os.urandom(6 * MIB))
    if mode == "cut":
        proxy.set("cut", 2 * MIB)
    with pytest.raises(StoreUnavailable), store.open("server/db/id/dump") as reader:
        read = 0
        while data := reader.read(100_000):
            read += len(data)
            if mode == "reset" and read > MIB:
                proxy.set("pass")  # ends the connections there are
    assert read < 6 * MIB


def test_missing_object_behind_a_dead_server_is_not_said_to_be_missing(
    s3_server: S3Server, s3_bucket: str, proxy: FaultyProxy
) -> None:
    store = s3_store(s3_server, s3_bucket, endpoint=proxy.endpoint)
    with pytest.raises(ObjectMissing):
        get(store, "none")
    proxy.set("refuse")
    with pytest.raises(StoreUnavailable):
        get(store, "none")


def test_server_killed_in_mid_upload_leaves_an_upload_that_sweep_clears(s3_server: S3Server, s3_bucket: str) -> None:
    store = s3_store(s3_server, s3_bucket)
    put(store, "server/db/earlier/dump", b"earlier")
    writer = store.writer("server/db/id/dump")
    writer.write(os.urandom(20 * MIB))
    s3_server.kill()
    try:
        with pytest.raises(StoreUnavailable):
            writer.write(os.urandom(20 * MIB))
    finally:
        s3_server.restart()
    assert [listed.key for listed in store.scan()] == ["server/db/earlier/dump"]
    assert s3_server.unfinished_uploads(s3_bucket) == ["house/backups/server/db/id/dump"]
    (line,) = store.sweep(timedelta(hours=1), datetime.now(UTC) + timedelta(hours=2))
    assert "server/db/id/dump" in line
    assert s3_server.unfinished_uploads(s3_bucket) == []
    assert get(store, "server/db/earlier/dump") == b"earlier"


def test_sweep_spares_an_upload_that_still_goes_on_however_long_ago_it_began(
    s3_server: S3Server, s3_bucket: str
) -> None:
    store, now = s3_store(s3_server, s3_bucket), datetime.now(UTC)
    writer = store.writer("server/db/id/dump")
    writer.write(bytes(20 * MIB))
    (upload,) = s3_server.client().list_multipart_uploads(Bucket=s3_bucket)["Uploads"]
    # This server takes the time of the upload's folder for its beginning.
    (folder,) = s3_server.data.rglob(upload["UploadId"])
    os.utime(folder, ((now - timedelta(hours=3)).timestamp(),) * 2)
    (upload,) = s3_server.client().list_multipart_uploads(Bucket=s3_bucket)["Uploads"]
    assert now - upload["Initiated"] > timedelta(hours=2)
    assert store.sweep(timedelta(hours=1), now) == []
    writer.write(bytes(10 * MIB))
    writer.commit()
    assert [listed.key for listed in store.scan()] == ["server/db/id/dump"]


def test_sweep_takes_an_upload_without_any_part_by_its_beginning(s3_server: S3Server, s3_bucket: str) -> None:
    store, client = s3_store(s3_server, s3_bucket), s3_server.client()
    client.create_multipart_upload(Bucket=s3_bucket, Key="house/backups/a/b")
    now = datetime.now(UTC)
    assert store.sweep(timedelta(hours=1), now + timedelta(minutes=50)) == []
    (line,) = store.sweep(timedelta(hours=1), now + timedelta(minutes=70), dry_run=True)
    assert s3_server.unfinished_uploads(s3_bucket) == ["house/backups/a/b"]
    assert store.sweep(timedelta(hours=1), now + timedelta(minutes=70)) == [line]
    assert s3_server.unfinished_uploads(s3_bucket) == []


def test_upload_aborted_at_the_server_fails_the_commit(s3_server: S3Server, s3_bucket: str) -> None:
    store = s3_store(s3_server, s3_bucket)
    put(store, "server/db/id/dump", b"older")
    writer = store.writer("server/db/id/dump")
    writer.write(os.urandom(17 * MIB))
    store.sweep(timedelta(), datetime.now(UTC) + timedelta(minutes=1))
    with pytest.raises(StoreUnavailable):
        writer.commit()
    assert get(store, "server/db/id/dump") == b"older"


def test_lost_answer_to_the_completion_is_no_failure(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3_store(s3_server, s3_bucket)
    complete = store.client.complete_multipart_upload

    def complete_twice(**arguments: Any) -> object:
        complete(**arguments)
        return complete(**arguments)  # what botocore does when the first answer was lost

    monkeypatch.setattr(store.client, "complete_multipart_upload", complete_twice)
    data = os.urandom(9 * MIB)
    put(store, "server/db/id/dump", data)
    assert get(store, "server/db/id/dump") == data


@pytest.mark.parametrize("limit", [1, 20, 30])
def test_answer_that_breaks_off_in_its_head_ends_the_request(
    s3_server: S3Server, s3_bucket: str, proxy: FaultyProxy, limit: int
) -> None:
    store = s3_store(s3_server, s3_bucket, endpoint=proxy.endpoint)
    proxy.set("cut", limit)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        put(store, "server/db/id/dump", b"x")
    with pytest.raises(StoreUnavailable):
        put(store, "server/db/id/dump", bytes(9 * MIB))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_empty_answer_is_neither_success_nor_an_empty_store(s3_server: S3Server, head: bytes) -> None:
    with HttpAnswer(head) as server:
        store = s3_store(s3_server, "bucket", endpoint=server.endpoint, read_timeout=0.5)
        for call in (store.check, lambda: put(store, "a", b"x"), lambda: put(store, "a", bytes(9 * MIB))):
            with pytest.raises(StoreUnavailable):
                call()
        with pytest.raises(StoreUnavailable):
            list(store.scan())


def test_sweep_leaves_other_prefixes_alone(s3_server: S3Server, s3_bucket: str) -> None:
    other = s3_store(s3_server, s3_bucket, prefix="house/backups-of-another").writer("dump")
    other.write(bytes(9 * MIB))
    assert s3_store(s3_server, s3_bucket).sweep(timedelta(), datetime.now(UTC) + timedelta(minutes=1)) == []
    assert s3_server.unfinished_uploads(s3_bucket) == ["house/backups-of-another/dump"]
    other.abort()


def test_store_without_prefix_uses_the_whole_bucket(s3_server: S3Server, s3_bucket: str) -> None:
    store = s3_store(s3_server, s3_bucket, prefix="")
    put(store, "server/db", b"x")
    assert [listed.key for listed in store.scan()] == ["server/db"]
    assert store.location("server/db") == f"s3://{s3_bucket}/server/db"
    store.check()


def test_server_verifies_the_checksum_of_what_it_takes(s3_server: S3Server, s3_bucket: str) -> None:
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError, match="BadDigest"):
        s3_server.client().put_object(Bucket=s3_bucket, Key="x", Body=b"sent", ChecksumCRC32="AAAAAA==")
    store = s3_store(s3_server, s3_bucket)
    put(store, "small", b"small")
    put(store, "big", bytes(17 * MIB))
    for key, parts in (("small", ""), ("big", "-3")):
        held = s3_server.client().head_object(Bucket=s3_bucket, Key=f"house/backups/{key}", ChecksumMode="ENABLED")
        assert held["ChecksumCRC32"].endswith(parts or "=")
