"""Keys: wrong, missing, several, unreadable; and that no message ever holds one."""

from __future__ import annotations

import pytest

from homelab_pipelines.backup.errors import KeyMissing
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.backup.unpack import parse_identities
from tests.integration.backup.conftest import (
    Key,
    capture,
    databases_kept,
    encrypted_to,
    new_key,
    record_of,
    restore,
    verify,
)
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.postgres


def everything_said(error: BaseException) -> str:
    """The texts of an error and of all that led to it."""
    said, current = [], error
    while current is not None:
        said += [str(current), repr(current), repr(current.args)]
        current = current.__cause__ or current.__context__  # type: ignore[assignment]
    return "\n".join(said)


def test_wrong_key_is_named_as_such_and_proves_nothing(
    source_server: PostgresPeer, tiny: str, nas: DirectoryStore, key: Key, new_name: str
) -> None:
    wrong = new_key()
    manifest = capture(source_server, tiny, nas, options=key.options).manifest
    with databases_kept(source_server), pytest.raises(KeyMissing) as caught:
        restore(source_server, new_name, nas, manifest, wrong.identities)
    assert "none of the given identities is one of its recipients" in str(caught.value)
    assert "give the right key" in str(caught.value)
    assert wrong.secret not in everything_said(caught.value)
    with pytest.raises(KeyMissing):
        verify(manifest, nas, identities=wrong.identities)
    assert record_of(nas, manifest).status == "unverified"


def test_missing_key_names_the_recipients(
    source_server: PostgresPeer, tiny: str, nas: DirectoryStore, key: Key, new_name: str
) -> None:
    manifest = capture(source_server, tiny, nas, options=key.options).manifest
    assert manifest.recipients == [key.recipient]
    with databases_kept(source_server), pytest.raises(KeyMissing) as caught:
        restore(source_server, new_name, nas, manifest)
    assert key.recipient in str(caught.value)
    assert "--identity" in caught.value.next_step
    with pytest.raises(KeyMissing, match="no identity was given"):
        verify(manifest, nas)


def test_each_of_two_recipients_opens_a_backup_alone(
    source_server: PostgresPeer, tiny: str, nas: DirectoryStore, key: Key, new_name: str
) -> None:
    other, stranger = new_key(), new_key()
    manifest = capture(source_server, tiny, nas, options=encrypted_to(key, other)).manifest
    assert manifest.recipients == [key.recipient, other.recipient]
    for identities in (key.identities, other.identities, stranger.identities + other.identities):
        assert restore(source_server, new_name, nas, manifest, identities, replace=False).differences == []
        source_server.drop_database(new_name)


def test_key_given_for_an_unencrypted_backup_does_no_harm(
    source_server: PostgresPeer, tiny: str, nas: DirectoryStore, key: Key
) -> None:
    manifest = capture(source_server, tiny, nas).manifest
    assert [proof.result for proof in verify(manifest, nas, identities=key.identities)] == ["equal"]


def test_identity_file_of_age_keygen_is_read(key: Key) -> None:
    other = new_key()
    text = f"# created: 2026-11-23T02:00:00Z\n# public key: {key.recipient}\n{key.secret}\n\r\n  {other.secret}\r\n"
    assert [str(identity.to_public()) for identity in parse_identities(text)] == [key.recipient, other.recipient]


@pytest.mark.parametrize(
    ("garbage", "why"),
    [
        ("", "it holds no line AGE-SECRET-KEY-1"),
        ("# only a comment\n", "it holds no line AGE-SECRET-KEY-1"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n", "it holds no line AGE-SECRET-KEY-1"),
        ("{half}", "a line of it is not a whole AGE-SECRET-KEY-1"),
        ("{flipped}", "a line of it is not a whole AGE-SECRET-KEY-1"),
        ("{whole} and more", "a line of it is not a whole AGE-SECRET-KEY-1"),
    ],
)
def test_unreadable_identity_is_refused_without_showing_it(key: Key, garbage: str, why: str) -> None:
    half = key.secret[:-10]
    last = "Q" if key.secret[-1] != "Q" else "P"
    text = garbage.replace("{half}", half).replace("{flipped}", key.secret[:-1] + last).replace("{whole}", key.secret)
    with pytest.raises(KeyMissing) as caught:
        parse_identities(text)
    assert why in str(caught.value)
    assert half[16:] not in everything_said(caught.value)
