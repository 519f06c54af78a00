"""Names, ids and keys: any database name becomes one safe folder, and comes back from it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homelab_pipelines.backup.layout import (
    GLOBALS,
    Source,
    backup_folder,
    is_backup_id,
    new_backup_id,
    new_proof_name,
    quote_name,
)
from homelab_pipelines.backup.stores.keys import checked_key

# What PostgreSQL takes as a name: any character but NUL, at most 63 bytes.
names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1).filter(
    lambda n: len(n.encode()) < 64
)


@given(names, names | st.none())
def test_source_comes_back_from_its_id(server: str, database: str | None) -> None:
    source = Source(server, database)
    assert Source.parse(source.id) == source
    assert re.fullmatch(r"[A-Za-z0-9_%-]+/(@globals|[A-Za-z0-9_%-]+)", source.id)
    assert checked_key(f"{backup_folder(source.id, '20261123T020003Z-1a2b3c')}/manifest.json", "a store")


@given(names, names)
def test_different_names_have_different_folders(one: str, other: str) -> None:
    assert (quote_name(one) == quote_name(other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "quoted"),
    [("plain_name-1", "plain_name-1"), ("..", "%2E%2E"), ("a/b", "a%2Fb"), ("é", "%C3%A9"), ("%41", "%2541")],
)
def test_name_is_percent_encoded(name: str, quoted: str) -> None:
    assert quote_name(name) == quoted


def test_database_named_like_the_globals_is_another_source() -> None:
    assert Source("main", GLOBALS).id == "main/%40globals"
    assert Source("main", None).id == "main/@globals"
    assert Source.parse("main/@globals").database is None


@pytest.mark.parametrize("text", ["", "main", "main/", "/db", "main/db/more"])
def test_other_text_is_no_source_id(text: str) -> None:
    with pytest.raises(ValueError, match="not a source id"):
        Source.parse(text)


def test_backup_ids_sort_by_time_in_utc_and_differ() -> None:
    taken_at = datetime(2026, 11, 23, 3, 0, 3, tzinfo=timezone(timedelta(hours=1)))
    ids = {new_backup_id(taken_at) for _ in range(50)}
    assert len(ids) == 50
    assert all(each.startswith("20261123T020003Z-") and is_backup_id(each) for each in ids)
    assert max(ids) < new_backup_id(taken_at + timedelta(seconds=1))


@pytest.mark.parametrize("text", ["", "20261123T020003Z", "20261123T020003Z-1A2B3C", "20261123T020003Z-1a2b3c/", ".."])
def test_other_text_is_no_backup_id(text: str) -> None:
    assert not is_backup_id(text)


def test_proof_names_differ() -> None:
    now = datetime.now(UTC)
    assert len({new_proof_name(now) for _ in range(50)}) == 50
