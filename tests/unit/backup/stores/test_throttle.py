from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from homelab_pipelines.backup.stores.base import get
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.backup.stores.throttle import Throttle, ThrottledStore


class Clock:
    """Time that passes only while something sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_many_small_takes_keep_to_the_rate() -> None:
    clock = Clock()
    throttle = Throttle(1000, clock, clock.sleep)
    for _ in range(100):
        throttle.take(100)
    assert clock.now == pytest.approx(110.0, abs=0.3)


def test_one_large_take_waits_for_all_of_it() -> None:
    clock = Clock()
    Throttle(1000, clock, clock.sleep).take(5000)
    assert clock.now == pytest.approx(105.0, abs=0.3)


def test_idle_time_is_not_saved_up() -> None:
    clock = Clock()
    throttle = Throttle(1000, clock, clock.sleep)
    clock.sleep(3600)
    began = clock.now
    throttle.take(10_000)
    assert clock.now - began == pytest.approx(10, abs=0.3)


def test_slow_sink_is_not_slowed_further() -> None:
    clock = Clock()
    throttle = Throttle(1000, clock, clock.sleep)
    for _ in range(10):
        clock.sleep(0.2)  # the sink takes longer than the throttle asks for
        throttle.take(100)
    assert clock.now == pytest.approx(102.0)


def test_threads_share_one_rate() -> None:
    throttle = Throttle(1_000_000)
    began = time.monotonic()

    def take_a_quarter() -> None:
        for _ in range(10):
            throttle.take(25_000)

    threads = [threading.Thread(target=take_a_quarter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began >= 0.95 - 0.25


def test_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="lets nothing through"):
        Throttle(0)


def test_store_limits_all_its_writers_together_and_keeps_the_bytes(tmp_path: Path) -> None:
    clock = Clock()
    store = ThrottledStore(DirectoryStore(tmp_path, "nas"), Throttle(100_000, clock, clock.sleep))
    data = bytes(range(256)) * 2000
    first, second = store.writer("a"), store.writer("b")
    first.write(data)
    second.write(memoryview(data))
    first.commit()
    second.commit()
    assert clock.now - 100 == pytest.approx(2 * len(data) / 100_000, abs=0.3)
    assert get(store, "a") == get(store, "b") == data
