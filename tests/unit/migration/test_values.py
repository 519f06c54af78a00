"""Durations, sizes and quantities are read and written exactly."""

from __future__ import annotations

import pytest

from homelab_pipelines.migration.values import (
    amount,
    cpu_quantity,
    image_name,
    image_tag,
    literal,
    quantity,
    seconds,
    size_in_bytes,
    whole_seconds,
)


@pytest.mark.parametrize(("text", "value"), [("1m30s", 90.0), ("500ms", 0.5), ("2h", 7200.0), (None, 7.0), (15, 15.0)])
def test_duration(text: object, value: float) -> None:
    assert seconds(text, 7) == value


def test_duration_of_a_probe_is_at_least_a_second() -> None:
    assert whole_seconds("100ms", 5) == 1


@pytest.mark.parametrize(
    ("text", "size"), [("64m", 64 * 1024**2), ("1gb", 1024**3), (1000, 1000), ("2GiB", 2 * 1024**3)]
)
def test_size(text: object, size: int) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize(("size", "text"), [(1024**3, "1Gi"), (1536 * 1024, "1536Ki"), (1000, "1000"), (0, "0")])
def test_quantity(size: int, text: str) -> None:
    assert quantity(size) == text


@pytest.mark.parametrize(("value", "text"), [(0.5, "500m"), ("1.5", "1500m"), (2, "2"), (0.001, "1m")])
def test_processors(value: object, text: str) -> None:
    assert cpu_quantity(value) == text
    assert amount(text) == float(str(value))


@pytest.mark.parametrize(
    ("image", "name", "tag"),
    [
        ("postgres", "postgres", ""),
        ("registry:5000/me/app:1.2", "app", "1.2"),
        ("registry:5000/me/app", "app", ""),
        ("app:1@sha256:abc", "app", "sha256:abc"),
    ],
)
def test_image(image: str, name: str, tag: str) -> None:
    assert (image_name(image), image_tag(image)) == (name, tag)


def test_dollar_of_the_model_is_one_dollar() -> None:
    assert literal("a$$b$${C}") == "a$b${C}"
    assert (literal(True), literal(None), literal(8)) == ("true", "", "8")
