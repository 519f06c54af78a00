"""Cron expressions: valid exactly where Dagster's scheduler agrees, and the longest gap between two ticks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from dagster._utils.schedules import is_valid_cron_string
from dagster._vendored.croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from homelab_pipelines.inventory.cron import parse_cron


@pytest.mark.parametrize(
    ("expression", "gap"),
    [
        ("0 2 * * *", timedelta(days=1)),
        ("*/15 * * * *", timedelta(minutes=15)),
        ("0 2,14 * * *", timedelta(hours=12)),
        ("0 2,4 * * *", timedelta(hours=22)),
        ("0 2 * * mon-fri", timedelta(days=3)),
        ("0 2 * * 0", timedelta(days=7)),
        ("0 2 * * 7", timedelta(days=7)),
        ("0 2 1 * *", timedelta(days=31)),
        ("0 2 31 * *", timedelta(days=61)),
        ("0 2 1 * mon", timedelta(days=7)),
        ("0 * */1 * */2", timedelta(days=1, hours=1)),
        ("0 * 1-31 * 1", timedelta(hours=1)),
        ("0 2 29 2 *", timedelta(days=1461)),
        ("30 8-18/2 * JAN *", timedelta(days=335, hours=14)),
    ],
)
def test_longest_gap_is_that_of_the_calendar(expression: str, gap: timedelta) -> None:
    assert parse_cron(expression).longest_gap() == gap


@pytest.mark.parametrize(
    "expression",
    ["", "0 2 * *", "0 2 * * * *", "@daily", "60 2 * * *", "0 24 * * *", "0 2 0 * *", "0 2 * 13 *", "0 2 * * 8",
     "0 2 * * monday", "0 2 30 2 *", "5-1 * * * *", "*/0 * * * *", "*-5 * * * *", "1,,2 * * * *", "a * * * *",
     "0 2 L * *", "0 2 ? * *", "-1 * * * *", "1- * * * *", "٣ * * * *"],
)  # fmt: skip
def test_parse_cron_bad_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="schedule"):
        parse_cron(expression)


def _field(least: int, most: int) -> st.SearchStrategy[str]:
    numbers = st.integers(least, most)
    spans = st.tuples(numbers, numbers).map(lambda pair: f"{min(pair)}-{max(pair)}")
    steps = st.integers(1, 7).map(lambda step: f"*/{step}")
    return st.one_of(st.just("*"), numbers.map(str), spans, steps, st.lists(numbers, min_size=2, max_size=3).map(
        lambda values: ",".join(map(str, values))
    ))  # fmt: skip


EXPRESSIONS = st.tuples(_field(0, 59), _field(0, 23), _field(1, 28), _field(1, 12), _field(0, 7)).map(" ".join)


@settings(max_examples=30, deadline=None)
@given(EXPRESSIONS)
def test_parse_cron_valid_expression_is_valid_in_dagster_and_ticks_as_there(expression: str) -> None:
    gap = parse_cron(expression).longest_gap()
    assert is_valid_cron_string(expression)
    assert gap is not None
    ticks = croniter(expression, datetime(2025, 1, 1, tzinfo=UTC))
    times = [ticks.get_next(datetime) for _ in range(12)]
    assert max(later - earlier for earlier, later in pairwise(times)) <= gap
