"""What every store promises, asked of each kind of store in the same words."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from homelab_pipelines.backup.errors import ObjectMissing, StoreRefused
from homelab_pipelines.backup.layout import quote_name
from homelab_pipelines.backup.stores.base import BackupStore, get, put
from homelab_pipelines.backup.stores.throttle import ThrottledStore
from tests.integration.stores.conftest import Bench

MIB = 1 << 20
UNUSUAL_KEYS = [
    "main/@globals/20261123T020003Z-1a2b3c/manifest.json",
    quote_name("a b/c") + "/" + quote_name("„Fotos“ 📷\n") + "/20261123T020003Z-1a2b3c/manifest.json",
    "server/" + quote_name("é" * 31) + "/20261123T020003Z-1a2b3c/manifest.json",
    "a+b=c&d/100%25/x y",
    "naïve/é/ü.json",
    "one",
    "long/" + "n" * 189 + "/" + "m" * 255,
    "deep/" + "/".join("abcdefghij"),
]
REFUSED_KEYS = [
    *("", "/", "/etc/passwd", "a//b", "a/", "../a", "a/../b", ".", "a/./b"),
    *("a\nb", "a\0b", "x" * 256, "é/" * 400 + "x", ".homelab-backups", "a/.unfinished-1"),
]


def keys(store: BackupStore, prefix: str = "") -> list[str]:
    return sorted(listed.key for listed in store.scan(prefix))


def write_in_pieces(store: BackupStore, key: str, size: int, piece: int, hint: int = 0) -> str:
    """Write `size` random bytes, commit, and return their SHA-256."""
    digest, block = hashlib.sha256(), os.urandom(piece)
    writer = store.writer(key, hint)
    try:
        for start in range(0, size, piece):
            data = memoryview(block)[: min(piece, size - start)]
            writer.write(data)
            digest.update(data)
        writer.commit()
    finally:
        writer.abort()
    return digest.hexdigest()


def read_digest(store: BackupStore, key: str, piece: int = 700_001) -> str:
    digest = hashlib.sha256()
    with store.open(key) as reader:
        while data := reader.read(piece):
            assert len(data) <= piece
            digest.update(data)
        assert reader.read(piece) == b""
    return digest.hexdigest()


@pytest.mark.parametrize("size", [0, 1, 5 * MIB + 1, 8 * MIB, 16 * MIB, 40 * MIB])
def test_write_then_read_gives_the_same_bytes(bench: Bench, size: int) -> None:
    before = datetime.now(UTC)
    written = write_in_pieces(bench.store, "server/db/id/dump", size, 300_007)
    assert read_digest(bench.store, "server/db/id/dump") == written
    (listed,) = bench.store.scan()
    assert (listed.key, listed.bytes) == ("server/db/id/dump", size)
    assert before - timedelta(seconds=2) <= listed.modified <= datetime.now(UTC) + timedelta(seconds=2)
    assert listed.modified.utcoffset() == timedelta()
    assert bench.leftovers() == []


@pytest.mark.parametrize("size", [0, 10, 20 * MIB])
def test_what_was_sent_is_counted_to_the_end(bench: Bench, size: int) -> None:
    writer = bench.store.writer("server/db/id/dump")
    assert writer.sent == 0
    writer.write(bytes(size))
    writer.commit()
    twice = 2 if isinstance(bench.store, ThrottledStore) else 1  # on its way through the limit, and into the store
    assert writer.sent == twice * size


def test_write_of_one_piece_larger_than_parts_gives_the_same_bytes(bench: Bench) -> None:
    written = write_in_pieces(bench.store, "big", 20 * MIB, 20 * MIB, hint=100)
    assert read_digest(bench.store, "big") == written


def test_unusual_keys_are_kept_apart_and_found(bench: Bench) -> None:
    for key in UNUSUAL_KEYS:
        put(bench.store, key, key.encode())
    assert keys(bench.store) == sorted(UNUSUAL_KEYS)
    for key in UNUSUAL_KEYS:
        assert get(bench.store, key) == key.encode()
        assert keys(bench.store, key) == [key]
        assert bench.store.location(key).endswith(key)
    for key in UNUSUAL_KEYS:
        bench.store.delete(key)
    assert keys(bench.store) == []


@pytest.mark.parametrize("key", REFUSED_KEYS)
def test_key_that_could_leave_the_store_is_refused(bench: Bench, key: str) -> None:
    with pytest.raises(StoreRefused):
        bench.store.writer(key)
    with pytest.raises(StoreRefused), bench.store.open(key):
        pass
    with pytest.raises(StoreRefused):
        bench.store.delete(key)
    assert keys(bench.store) == []


@pytest.mark.parametrize("size", [10, 20 * MIB])
def test_nothing_is_visible_before_commit(bench: Bench, size: int) -> None:
    writer = bench.store.writer("server/db/id/dump")
    writer.write(bytes(size))
    assert keys(bench.store) == []
    with pytest.raises(ObjectMissing), bench.store.open("server/db/id/dump"):
        pass
    writer.commit()
    assert keys(bench.store) == ["server/db/id/dump"]
    writer.abort()
    assert keys(bench.store) == ["server/db/id/dump"]


@pytest.mark.parametrize("size", [0, 10, 20 * MIB])
def test_abort_leaves_nothing(bench: Bench, size: int) -> None:
    writer = bench.store.writer("server/db/id/dump")
    writer.write(bytes(size))
    writer.abort()
    writer.abort()
    assert keys(bench.store) == []
    assert bench.leftovers() == []
    with pytest.raises(ValueError, match="after its commit or abort"):
        writer.write(b"more")
    with pytest.raises(ValueError, match="after its commit or abort"):
        writer.commit()
    assert keys(bench.store) == []


def test_abort_of_a_replacement_leaves_the_older_object(bench: Bench) -> None:
    put(bench.store, "server/db/id/dump", b"older")
    writer = bench.store.writer("server/db/id/dump")
    writer.write(bytes(20 * MIB))
    writer.abort()
    assert get(bench.store, "server/db/id/dump") == b"older"


def test_commit_replaces_the_older_object(bench: Bench) -> None:
    put(bench.store, "server/db/id/dump", b"older and longer")
    put(bench.store, "server/db/id/dump", b"newer")
    assert get(bench.store, "server/db/id/dump") == b"newer"
    (listed,) = bench.store.scan()
    assert listed.bytes == 5


def test_two_writers_of_one_key_leave_one_whole_object(bench: Bench) -> None:
    first, second = bench.store.writer("key"), bench.store.writer("key")
    first.write(b"first")
    second.write(b"second")
    first.commit()
    second.commit()
    assert get(bench.store, "key") == b"second"
    assert bench.leftovers() == []


def test_scan_finds_exactly_the_keys_with_the_prefix(bench: Bench) -> None:
    for key in ("a/b/c", "a/bc", "a/b.d", "ab/c", "a/b/cd", "b"):
        put(bench.store, key, b"x")
    assert keys(bench.store, "a/b") == ["a/b.d", "a/b/c", "a/b/cd", "a/bc"]
    assert keys(bench.store, "a/b/") == ["a/b/c", "a/b/cd"]
    assert keys(bench.store, "a/") == ["a/b.d", "a/b/c", "a/b/cd", "a/bc"]
    assert keys(bench.store, "a") == ["a/b.d", "a/b/c", "a/b/cd", "a/bc", "ab/c"]
    assert keys(bench.store, "b") == ["b"]
    assert keys(bench.store, "b/") == []
    assert keys(bench.store, "none/such") == []
    assert keys(bench.store) == ["a/b.d", "a/b/c", "a/b/cd", "a/bc", "ab/c", "b"]


def test_scan_of_more_objects_than_a_page_finds_all(bench: Bench) -> None:
    wanted = [f"server/db/{number:04}" for number in range(1003)]
    for key in wanted:
        put(bench.store, key, b"x")
    assert keys(bench.store) == wanted
    assert keys(bench.store, "server/db/10") == wanted[1000:]


def test_delete_removes_one_object_and_may_be_repeated(bench: Bench) -> None:
    put(bench.store, "a/b", b"x")
    put(bench.store, "a/bc", b"x")
    for _ in range(2):
        bench.store.delete("a/b")
        assert keys(bench.store) == ["a/bc"]
    bench.store.delete("never/was")
    with pytest.raises(ObjectMissing), bench.store.open("a/b"):
        pass


def test_missing_object_is_said_to_be_missing(bench: Bench) -> None:
    put(bench.store, "a/b", b"x")
    for key in ("none", "a/c", "c/d/e"):
        with pytest.raises(ObjectMissing) as caught, bench.store.open(key):
            pass
        assert bench.store.location(key) in str(caught.value)


def test_check_of_a_sound_store_leaves_nothing(bench: Bench) -> None:
    bench.store.check()
    assert keys(bench.store) == []
    assert bench.leftovers() == []


def test_sweep_removes_old_leftovers_only(bench: Bench) -> None:
    put(bench.store, "server/db/finished/dump", b"x")
    writer = bench.store.writer("server/db/begun/dump")
    writer.write(bytes(20 * MIB))
    now = datetime.now(UTC)
    assert bench.store.sweep(timedelta(hours=1), now + timedelta(minutes=50)) == []
    assert len(bench.leftovers()) == 1
    lines = bench.store.sweep(timedelta(hours=1), now + timedelta(minutes=70))
    assert len(lines) == 1
    assert "dump" in lines[0]
    assert bench.leftovers() == []
    assert keys(bench.store) == ["server/db/finished/dump"]
    writer.abort()


CHILD = """
import sys
from homelab_pipelines.backup.stores.addresses import open_store
writer = open_store(sys.argv[1]).writer("server/db/id/dump")
writer.write(bytes(20 << 20))
print("written", flush=True)
sys.stdin.read()
"""


def test_kill_of_the_writing_process_leaves_nothing_visible_and_sweep_clears_it(bench: Bench) -> None:
    put(bench.store, "server/db/earlier/dump", b"x")
    with subprocess.Popen(
        (sys.executable, "-c", CHILD, bench.address),
        env=bench.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        child.kill()
    assert keys(bench.store) == ["server/db/earlier/dump"]
    assert len(bench.leftovers()) == 1
    assert len(bench.store.sweep(timedelta(hours=1), datetime.now(UTC) + timedelta(hours=2))) == 1
    assert bench.leftovers() == []
    assert get(bench.store, "server/db/earlier/dump") == b"x"
