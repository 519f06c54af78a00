"""Sizes, rates, durations and percentages as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homelab_pipelines.inventory.units import (
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_percent,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        ("0", 0),
        (4096, 4096),
        ("4096", 4096),
        ("1B", 1),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("20MB", 20_000_000),
        ("32GiB", 32 * 1024**3),
        (" 1.5 GB ", 1_500_000_000),
        ("0.1TB", 100_000_000_000),
    ],
)
def test_parse_size_good_text_gives_bytes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("32Gi", "did you mean 32GiB?"),
        ("32gib", "did you mean 32GiB?"),
        ("32G", "did you mean 32GiB or 32GB?"),
        ("32mb", "32MB"),
        ("32Gb", "a small b is bits"),
        ("much", "for example 32GiB"),
        ("-1MB", "for example 32GiB"),
        ("1e9", "for example 32GiB"),
        ("", "for example 32GiB"),
        ("9999999PB", "for example 32GiB"),
        ("٣GB", "for example 32GiB"),
        (-1, "for example 32GiB"),
        (2**64, "for example 32GiB"),
        (1.5, "for example 32GiB"),
        (True, "for example 32GiB"),
        (None, "for example 32GiB"),
        ([], "for example 32GiB"),
    ],
)
def test_parse_size_bad_text_is_refused_with_an_example(text: object, hint: str) -> None:
    with pytest.raises(ValueError, match="not a size") as raised:
        parse_size(text)
    assert hint in raised.value.context["hint"]  # type: ignore[attr-defined]


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_format_size_any_size_is_read_back_exactly(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_format_size_prefers_whole_units() -> None:
    assert [format_size(size) for size in (0, 1, 1000, 1024, 20_000_000, 2 * 1024**3)] == [
        "0", "1B", "1kB", "1KiB", "20MB", "2GiB",
    ]  # fmt: skip


@pytest.mark.parametrize(("text", "rate"), [("20MB/s", 20_000_000), ("512 KiB / s", 524288), (1000, 1000)])
def test_parse_rate_good_text_gives_bytes_per_second(text: object, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["20MB", "20MB/h", "MB/s", "/s", "20", "0/s", 0, -5, None, True, [], 1.5, "20Mb/s"])
def test_parse_rate_bad_text_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="rate"):
        parse_rate(text)


@given(st.integers(min_value=1, max_value=2**63 - 1))
def test_format_rate_any_rate_is_read_back_exactly(rate: int) -> None:
    assert parse_rate(format_rate(rate)) == rate


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("26h", timedelta(hours=26)),
        ("30m", timedelta(minutes=30)),
        ("7d", timedelta(days=7)),
        ("90s", timedelta(seconds=90)),
        ("2w", timedelta(weeks=2)),
        ("1h30m", timedelta(minutes=90)),
        ("1h 30m", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        ("0s", timedelta(0)),
    ],
)
def test_parse_duration_good_text_gives_a_timedelta(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (26, "write 26h, 26m or 26s"),
        (float("nan"), "for example 26h"),
        (float("inf"), "for example 26h"),
        (-5, "for example 26h"),
        ("26", "for example 26h"),
        ("24 hours", "did you mean 24h?"),
        ("2 Weeks", "did you mean 2w?"),
        ("1 day 2 hours", "did you mean 1d2h?"),
        ("3months", "for example 26h"),
        ("1h-30m", "for example 26h"),
        ("PT26H", "for example 26h"),
        ("99999999w", "for example 26h"),
        ("9" * 500 + "h", "for example 26h"),
        ("", "for example 26h"),
        (None, "for example 26h"),
        (True, "for example 26h"),
    ],
)
def test_parse_duration_bad_text_is_refused_with_an_example(text: object, hint: str) -> None:
    with pytest.raises(ValueError, match="not a duration") as raised:
        parse_duration(text)
    assert hint in raised.value.context["hint"]  # type: ignore[attr-defined]


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=36525)))
def test_format_duration_any_duration_is_read_back_exactly(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize("text", ["26h", "30m", "7d", "90s", "2w", "24h", "1m"])
def test_format_duration_writes_what_people_write(text: str) -> None:
    assert format_duration(parse_duration(text)) == text


@pytest.mark.parametrize(("text", "percent"), [(50, 50), ("50", 50), ("50%", 50), ("50 %", 50), (300, 300)])
def test_parse_percent_good_text_gives_a_number(text: object, percent: int) -> None:
    assert parse_percent(text) == percent


@pytest.mark.parametrize("text", [0, -1, 0.5, "half", "5.5%", None, True, 10_000_000, "9" * 5000])
def test_parse_percent_bad_text_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="not a percentage"):
        parse_percent(text)
