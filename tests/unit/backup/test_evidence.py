"""When a restored sequence counts as equal: sequences stand outside every snapshot."""

from __future__ import annotations

import pytest

from homelab_pipelines.backup.evidence import compare
from homelab_pipelines.backup.manifest import Evidence, SequenceEvidence

Value = tuple[int, bool]


def sequence(before: Value, after: Value, increment: int = 1, cycle: bool = False) -> Evidence:
    return Evidence(
        sequences=[SequenceEvidence(name="s", before=before, after=after, increment=increment, cycle=cycle)]
    )


@pytest.mark.parametrize(
    ("before", "after", "increment", "cycle", "restored", "equal"),
    [
        ((5, True), (5, True), 1, False, (5, True), True),
        ((5, True), (5, True), 1, False, (4, True), False),
        ((5, True), (5, True), 1, False, (6, True), False),
        ((5, True), (5, True), 1, False, (5, False), False),
        ((5, True), (9, True), 1, False, (7, True), True),
        ((5, True), (9, True), 1, False, (10, True), False),
        ((1, False), (1, True), 1, False, (1, False), True),
        ((1, False), (1, True), 1, False, (1, True), True),
        ((-5, True), (-9, True), -2, False, (-7, True), True),
        ((-5, True), (-9, True), -2, False, (-3, True), False),
        ((2, True), (1, True), 1, True, (3, True), True),
        ((2, True), (2, True), 1, True, (3, True), False),
        ((900, True), (1, False), 1, False, (1, False), True),
    ],
)
def test_sequence_is_equal_between_its_values_around_the_dump(
    before: Value, after: Value, increment: int, cycle: bool, restored: Value, equal: bool
) -> None:
    lines = compare(sequence(before, after, increment, cycle), sequence(restored, restored, increment, cycle))
    assert (lines == []) == equal
    if not equal:
        assert lines == [f"sequence s: {before} to {after} around the dump, {restored} restored"]


def test_missing_sequence_is_named() -> None:
    assert compare(sequence((1, True), (1, True)), Evidence()) == ["sequence s is missing from the restored copy"]
