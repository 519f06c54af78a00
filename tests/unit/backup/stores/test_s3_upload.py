from __future__ import annotations

import pytest

from homelab_pipelines.backup.stores.s3_upload import MAX_PARTS, part_bytes

MIB, GIB = 1 << 20, 1 << 30


def capacity(expected: int) -> int:
    return sum(part_bytes(number, expected) for number in range(1, MAX_PARTS + 1))


def test_parts_start_small_and_never_exceed_the_memory_bound() -> None:
    sizes = [part_bytes(number) for number in range(1, MAX_PARTS + 1)]
    assert sizes[0] == 8 * MIB
    assert sizes == sorted(sizes)
    assert sizes[-1] == 64 * MIB


@pytest.mark.parametrize("expected", [1, GIB, 80 * GIB, 200 * GIB, 400 * GIB])
def test_parts_are_equal_up_to_the_size_hinted_and_a_fifth_more(expected: int) -> None:
    size, first, number = 0, part_bytes(1, expected), 0
    while size < expected * 1.2:
        number += 1
        assert part_bytes(number, expected) == first
        size += first
    assert number <= 5000 or first == 64 * MIB


@pytest.mark.parametrize(
    "expected", [0, 1, GIB, 10 * GIB, 33 * GIB, 40 * GIB, 80 * GIB, 100 * GIB, 300 * GIB, 10_000 * GIB]
)
def test_an_object_may_be_larger_than_hinted_up_to_hundreds_of_gigabytes(expected: int) -> None:
    assert 270 * GIB <= capacity(expected) <= 625 * GIB


def test_capacity_is_as_documented() -> None:
    assert capacity(0) // GIB == 492
    assert capacity(10_000 * GIB) // GIB == 625
