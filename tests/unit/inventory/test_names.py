"""The Dagster instance of each database."""

from __future__ import annotations

import hashlib
import re

from hypothesis import given
from hypothesis import strategies as st

from homelab_pipelines.inventory.names import LONGEST, instance_names


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def test_plain_names_are_kept_in_order() -> None:
    names = instance_names({"main": ["nextcloud", "immich"], "other": ["grafana"]})
    assert list(names.items()) == [
        (("main", "nextcloud"), "nextcloud"),
        (("main", "immich"), "immich"),
        (("other", "grafana"), "grafana"),
    ]


def test_other_characters_are_replaced_and_the_digest_is_appended() -> None:
    names = instance_names({"main": ["my db", "my/db", "größe"]})
    assert list(names.values()) == [
        f"my_db_{_digest('my db')}",
        f"my_db_{_digest('my/db')}",
        f"gr__e_{_digest('größe')}",
    ]


def test_long_name_is_cut_and_the_digest_is_appended() -> None:
    [name] = instance_names({"main": ["a" * 64]}).values()
    assert name == f"{'a' * 56}_{_digest('a' * 64)}"
    assert len(name) == LONGEST


def test_same_name_on_two_servers_first_keeps_it() -> None:
    names = instance_names({"main": ["app"], "other": ["app"], "third": ["app"]})
    assert list(names.values()) == ["app", "other__app", "third__app"]


def test_made_up_name_never_drives_a_database_out_of_its_own() -> None:
    names = instance_names({"a": ["x"], "b": ["x"], "c": ["b__x"]})
    assert names[("a", "x")] == "x"
    assert names[("c", "b__x")] == "b__x"
    assert re.fullmatch("b__x_[0-9a-f]{6}", names[("b", "x")])


# Few letters, so that names meet each other and the names made of them.
NAMES = st.text(alphabet="ab_ /", min_size=1, max_size=5)
SERVERS = st.dictionaries(st.text(alphabet="ab", min_size=1, max_size=3), st.lists(NAMES, max_size=6), max_size=4)


@given(SERVERS)
def test_names_are_unique_safe_and_the_same_again(servers: dict[str, list[str]]) -> None:
    names = instance_names(servers)
    assert list(names) == list(dict.fromkeys((server, name) for server in servers for name in servers[server]))
    assert len(set(names.values())) == len(names)
    assert all(re.fullmatch("[A-Za-z0-9_-]+", name) for name in names.values())
    assert instance_names(servers) == names
    first = {database: server for server, database in reversed(names)}
    plain = {database for database in first if re.fullmatch("[A-Za-z0-9_-]+", database)}
    assert all(names[(first[database], database)] == database for database in plain)
