"""Names become valid, stay apart, and are the same each time."""

from __future__ import annotations

import pytest

from homelab_pipelines.migration.names import Names, is_label, label


@pytest.mark.parametrize(
    ("text", "name"),
    [("web", "web"), ("my_app.db", "my-app-db"), ("Grafana", "grafana"), ("1password", "x-1password"), ("___", "x")],
)
def test_text_becomes_a_label(text: str, name: str) -> None:
    assert label(text) == name
    assert is_label(name)


def test_long_texts_with_one_beginning_stay_apart() -> None:
    one, other = label("a" * 80 + "1"), label("a" * 80 + "2")
    assert one != other
    assert len(one) <= 63
    assert is_label(one)


def test_two_texts_never_share_a_name() -> None:
    names = Names()
    given = [names.name(text) for text in ("my_app", "my-app", "my.app")]
    assert len(set(given)) == 3
    assert names.name("my-app") == given[1], "the same text has the same name again"
    assert all(is_label(name) for name in given)
