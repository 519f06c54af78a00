"""Sizes, rates, durations and percentages: as people write them, and as code needs them (bytes, timedelta, int)."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from homelab_pipelines.inventory.problems import invalid, noun, shown

# IEC 80000-13: powers of 1024 carry an i, powers of 1000 do not.
_SIZES = {"B": 1, "kB": 1000, "KB": 1000} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGTP", start=1)
    for suffix, base in (("iB", 1024), ("B", 1000))
}
_SECONDS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_SPELLED = {name + end for name in ("week", "day", "hour", "minute", "min", "second", "sec") for end in ("", "s")}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_SIZE_PATTERN = rf"^{_NUMBER} ?({'|'.join(_SIZES)})$"
_DURATION_PATTERN = rf"^({_NUMBER} ?[wdhms] ?)+$"
_PART = re.compile(rf"({_NUMBER}) ?([A-Za-z]+) ?")
_LONGEST = timedelta(days=36525)
_LARGEST = 2**63 - 1
_SIZE_HINT = "write a number and a unit, for example 32GiB, 500MB or 4096 (bytes)"
_RATE_HINT = "write a size per second, for example 20MB/s or 512KiB/s"
_DURATION_HINT = "write a number and a unit, for example 26h, 30m, 7d, 90s or 1h30m"


def parse_size(value: object) -> int:
    """Bytes from `32GiB`, `20MB`, `1.5GB` or a whole number of bytes. Raises ValueError with an example."""
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value <= _LARGEST:
            return value
        raise invalid("not a size: it is negative or beyond 8 EiB", _SIZE_HINT)
    if not isinstance(value, str):
        raise invalid(f"not a size: here stands {noun(value)}", _SIZE_HINT)
    text = value.strip()
    if re.fullmatch("[0-9]{1,18}", text):
        return int(text)
    match = _PART.fullmatch(text)
    if match is None or match[2] not in _SIZES:
        raise invalid(f"not a size: {shown(value)}", _near_size(match[1], match[2]) if match else _SIZE_HINT)
    size = int(Decimal(match[1]) * _SIZES[match[2]])
    if size > _LARGEST:
        raise invalid(f"not a size: {shown(value)} is beyond 8 EiB", _SIZE_HINT)
    return size


def _near_size(number: str, unit: str) -> str:
    if unit.endswith("b") and unit[0].isupper():
        return f"a small b is bits; write bytes, for example {number}{unit[:-1]}B"
    same = [known for known in _SIZES if known.lower() == unit.lower()]
    longer = [known for known in _SIZES if known[0].lower() == unit[0].lower() and unit.lower() in ("k", "m", "g", "t")]
    whole = [known for known in _SIZES if known.lower() == f"{unit}b".lower() and unit.lower().endswith("i")]
    near = same[:1] or whole or [known for known in longer if known != "kB"]
    return f"did you mean {' or '.join(number + known for known in near)}?" if near else _SIZE_HINT


def parse_rate(value: object) -> int:
    """Bytes per second from `20MB/s` or a whole number. Raises ValueError with an example; zero is none."""
    if isinstance(value, str):
        text, separator, second = value.strip().rpartition("/")
        if not separator or second.strip() != "s":
            is_size = re.fullmatch(_SIZE_PATTERN, value.strip()) is not None
            raise invalid(f"not a rate: {shown(value)}", f"did you mean {value.strip()}/s?" if is_size else _RATE_HINT)
        value = text
    elif not isinstance(value, int) or isinstance(value, bool):
        raise invalid(f"not a rate: here stands {noun(value)}", _RATE_HINT)
    try:
        rate = parse_size(value)
    except ValueError as error:
        raise invalid(f"{error}".replace("not a size", "not a rate"), _RATE_HINT) from None
    if rate == 0:
        raise invalid("a rate of 0 would never finish", "leave the key out for no limit")
    return rate


def parse_duration(value: object) -> timedelta:
    """A timedelta from `26h`, `30m`, `7d`, `90s`, `2w` or `1h30m`. Raises ValueError with an example."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        units = f"write {value}h, {value}m or {value}s" if math.isfinite(value) and value >= 0 else _DURATION_HINT
        raise invalid(f"not a duration: {value} has no unit", units)
    if not isinstance(value, str):
        raise invalid(f"not a duration: here stands {noun(value)}", _DURATION_HINT)
    text = value.strip()
    parts = _PART.findall(text)
    if not re.fullmatch(f"(?:{_PART.pattern})+", text) or any(unit not in _SECONDS for _, unit in parts):
        spelled = [f"{number}{unit[0].lower()}" for number, unit in parts if unit.lower() in _SPELLED]
        near = f"did you mean {''.join(spelled)}?" if spelled and len(spelled) == len(parts) else _DURATION_HINT
        raise invalid(f"not a duration: {shown(value)}", near)
    seconds = sum(Decimal(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > _LONGEST.total_seconds():
        raise invalid("not a duration: it is longer than a century", _DURATION_HINT)
    return timedelta(microseconds=int(seconds * 1_000_000))


def parse_percent(value: object) -> int:
    """A whole number of percent, at least 1, from `50` or `50%`. Raises ValueError with an example."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,6} ?%?", value.strip()):
        value = int(value.strip().rstrip("% "))
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise invalid(f"not a percentage: {shown(value)}", "write a whole number of percent, for example 50")
    return value


def format_size(size: int) -> str:
    """The shortest text that `parse_size` reads back as exactly `size` bytes."""
    if size == 0:
        return "0"
    exact = [f"{size // factor}{unit}" for unit, factor in _SIZES.items() if size % factor == 0 and unit != "KB"]
    return min(exact, key=len)


def format_rate(rate: int) -> str:
    """The shortest text that `parse_rate` reads back as exactly `rate` bytes per second."""
    return f"{format_size(rate)}/s"


def format_duration(duration: timedelta) -> str:
    """The text that `parse_duration` reads back as `duration`; whole days only from two days on (26h stays 26h)."""
    seconds = duration.total_seconds()
    for unit, factor in _SECONDS.items():
        least = 2 if unit in ("w", "d") else 1
        if seconds >= least * factor and seconds % factor == 0:
            return f"{int(seconds // factor)}{unit}"
    return f"{seconds:f}".rstrip("0").rstrip(".") + "s"


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "title": "size",
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"{_SIZE_PATTERN}|^[0-9]+$"}],
            "examples": ["32GiB", "20MB"],
        }
    ),
]
Rate = Annotated[
    int,
    BeforeValidator(parse_rate),
    PlainSerializer(format_rate, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "title": "rate",
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": _SIZE_PATTERN.replace("$", "/s$")},
            ],
            "examples": ["20MB/s"],
        }
    ),
]
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema(
        {"title": "duration", "type": "string", "pattern": _DURATION_PATTERN, "examples": ["26h", "30m", "7d", "90s"]}
    ),
]
Percent = Annotated[
    int,
    BeforeValidator(parse_percent),
    WithJsonSchema(
        {
            "title": "percent",
            "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9]+ ?%?$"}],
            "examples": [50, "50%"],
        }
    ),
]
