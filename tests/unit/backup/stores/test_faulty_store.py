"""The faults that other tests count on do happen."""

from __future__ import annotations

from pathlib import Path

import pytest

from homelab_pipelines.backup.errors import StoreRefused, StoreUnavailable
from homelab_pipelines.backup.stores.base import get, put
from homelab_pipelines.backup.stores.directory import DirectoryStore
from tests.peers.faulty_store import Fault, FaultyStore

DATA = bytes(100_000)


def differing_bytes(one: bytes, other: bytes) -> list[int]:
    assert len(one) == len(other)
    return [at for at in range(len(one)) if one[at] != other[at]]


def test_flip_on_read_turns_one_bit_once(tmp_path: Path) -> None:
    sound = DirectoryStore(tmp_path, "nas")
    put(sound, "a/dump", DATA)
    store = FaultyStore(sound, Fault("flip", "read", keys="*/dump", offset=70_001))
    assert differing_bytes(get(store, "a/dump"), DATA) == [70_001]
    assert get(store, "a/dump") == DATA


def test_flip_on_write_damages_what_is_stored(tmp_path: Path) -> None:
    sound = DirectoryStore(tmp_path, "nas")
    put(FaultyStore(sound, Fault("flip", "write", offset=5)), "a", DATA)
    assert differing_bytes(get(sound, "a"), DATA) == [5]


def test_truncate_drops_everything_from_its_offset(tmp_path: Path) -> None:
    sound = DirectoryStore(tmp_path, "nas")
    store = FaultyStore(sound, Fault("truncate", "write", offset=60_000), Fault("truncate", "read", offset=10))
    writer = store.writer("a")
    for start in range(0, len(DATA), 7_000):
        writer.write(DATA[start : start + 7_000])
    writer.commit()
    assert len(get(sound, "a")) == 60_000
    assert len(get(store, "a")) == 10


@pytest.mark.parametrize("on", ["write", "commit"])
def test_error_on_writing_leaves_nothing_and_happens_once(tmp_path: Path, on: str) -> None:
    sound = DirectoryStore(tmp_path, "nas")
    store = FaultyStore(sound, Fault("error", "write" if on == "write" else "commit", error=StoreRefused))
    with pytest.raises(StoreRefused):
        put(store, "a", DATA)
    assert list(sound.scan()) == []
    put(store, "a", DATA)
    assert get(sound, "a") == DATA


def test_error_on_reading_comes_after_its_offset_as_often_as_asked(tmp_path: Path) -> None:
    store = FaultyStore(DirectoryStore(tmp_path, "nas"), Fault("error", "read", keys="a", offset=50_000, times=2))
    put(store, "a", DATA)
    put(store, "b", DATA)
    for _ in range(2):
        with store.open("a") as reader:
            assert len(reader.read(40_000)) == 40_000
            with pytest.raises(StoreUnavailable):
                reader.read(40_000)
    assert get(store, "a") == get(store, "b") == DATA
