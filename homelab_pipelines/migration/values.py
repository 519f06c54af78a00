"""Values as Compose writes them, read: texts with `$$`, durations, sizes, references of images."""

from __future__ import annotations

import re
from typing import Any

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_MULTIPLES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def literal(value: Any) -> str:
    """A value of the resolved model as the container sees it: `compose config` writes each `$` as `$$`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value).replace("$$", "$")


def seconds(text: Any, default: float) -> float:
    """A duration such as `1m30s` in seconds (Go's time.ParseDuration); a number is seconds."""
    if text is None:
        return default
    if isinstance(text, int | float):
        return float(text)
    parts = re.findall(r"([0-9.]+)(ms|us|ns|h|m|s)", str(text))
    return sum(float(number) * _UNITS[unit] for number, unit in parts) if parts else default


def whole_seconds(text: Any, default: float) -> int:
    """A duration in whole seconds, at least one."""
    return max(1, round(seconds(text, default)))


def size_in_bytes(value: Any) -> int:
    """A size in bytes: a number, or a text such as `64m` or `1gb`; 0 where it is no size."""
    match = re.fullmatch(r"([0-9.]+)\s*([kmgt]?)(i?b)?", str(value).strip().lower())
    return int(float(match[1]) * _MULTIPLES[match[2]]) if match else 0


def quantity(size: int) -> str:
    """Bytes as Kubernetes writes them, exactly: 1073741824 is `1Gi`."""
    for unit, multiple in (("Gi", 1024**3), ("Mi", 1024**2), ("Ki", 1024)):
        if size and size % multiple == 0:
            return f"{size // multiple}{unit}"
    return str(size)


def cpu_quantity(value: Any) -> str:
    """Processors as Kubernetes writes them: 0.5 is `500m`."""
    thousandths = round(float(value) * 1000)
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"


def amount(text: str) -> float:
    """A quantity of Kubernetes as a number: `500m` is 0.5, `1Ki` is 1024. Raises ValueError."""
    factors = {"m": 1e-3, "Ki": 1024.0, "Mi": 1024.0**2, "Gi": 1024.0**3}
    suffix = next((suffix for suffix in factors if text.endswith(suffix)), "")
    return float(text.removesuffix(suffix)) * factors.get(suffix, 1.0)


def image_name(image: str) -> str:
    """The last part of an image's name, without registry, tag and digest: `postgres`."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def image_tag(image: str) -> str:
    """The tag of an image, or its digest; empty without one."""
    before, _, digest = image.partition("@")
    return digest or before.rpartition("/")[2].partition(":")[2]
