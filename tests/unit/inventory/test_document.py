"""YAML with the scalars of version 1.2, and inputs made to exhaust a reader."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homelab_pipelines.inventory.document import NotYaml, read_document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("Off", "Off"),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("null", None),
        ("~", None),
        ("", None),
        ("2222:22", "2222:22"),
        ("12:30:45", "12:30:45"),
        ("0777", 777),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("-5", -5),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("192.168.1.10", "192.168.1.10"),
        ("2026-11-23", "2026-11-23"),
        ("=", "="),
        ("'5'", "5"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("9" * 400, "9" * 400),
    ],
)
def test_scalar_is_read_by_the_core_schema(text: str, value: object) -> None:
    data = read_document(f"key: {text}\n").data["key"]
    assert data == value
    assert type(data) is type(value)


def test_not_a_number_is_a_float() -> None:
    assert math.isnan(read_document("key: .nan").data["key"])


def test_keys_are_always_text() -> None:
    assert read_document("{5: a, true: b, null: c, 1.5: d}").data == {"5": "a", "true": "b", "null": "c", "1.5": "d"}


def test_places_are_those_of_keys_and_values() -> None:
    document = read_document("a: 1\nb:\n  - x\n  - {c: 2}\n")
    places = {path: (place.key, place.value) for path, place in document.places.items()}
    assert places == {
        (): ((1, 1), (1, 1)),
        ("a",): ((1, 1), (1, 4)),
        ("b",): ((2, 1), (3, 3)),
        ("b", 0): ((3, 5), (3, 5)),
        ("b", 1): ((4, 5), (4, 5)),
        ("b", 1, "c"): ((4, 6), (4, 9)),
    }
    assert document.place(("b", 1, "missing", "deeper")).value == (4, 5)


def test_merge_takes_the_first_of_several_and_refuses_a_second_merge_key() -> None:
    text = "a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b], z: 3}\nd: {<<: *a, <<: *b}\ne: {'<<': 1}\n"
    document = read_document(text)
    assert document.data["c"] == {"z": 3, "x": 1, "y": 2}
    assert document.data["e"] == {"<<": 1}
    assert [(fault.line, fault.column) for fault in document.faults] == [(4, 13)]


def test_key_that_is_a_list_is_refused_and_the_rest_is_read() -> None:
    document = read_document("? [a, b]\n: 1\nc: 2\n")
    assert document.data == {"c": 2}
    assert [fault.message for fault in document.faults] == ["a key must be a text"]


def test_multiplying_aliases_are_refused_quickly() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [{', '.join(['*' + before] * 10)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    with pytest.raises(NotYaml) as raised:
        read_document("\n".join(lines))
    assert "aliases make this file larger" in raised.value.fault.message


def test_merge_into_itself_is_refused() -> None:
    with pytest.raises(NotYaml) as raised:
        read_document("a: &a\n  b: {<<: *a}\n")
    assert "inside its own anchor" in raised.value.fault.message


@pytest.mark.parametrize("text", ["[" * 1500, "{a: " * 1500, "- " * 1500])
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(NotYaml):
        read_document(text)


@given(st.text(alphabet=st.sampled_from("ab:-?[]{}&*!|>'\"%@`#,\n\t <\\~0.")))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    try:
        document = read_document(text)
    except NotYaml as error:
        assert error.fault.line >= 1
        assert error.fault.column >= 1
        assert error.fault.message
    else:
        assert all(place.value >= (1, 1) for place in document.places.values())
