"""The manifest and the proof: what is written comes back, and no altered byte goes unseen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from homelab_pipelines.backup.errors import BackupDamaged
from homelab_pipelines.backup.manifest import (
    BackupRecord,
    DatabaseProperties,
    Evidence,
    LargeObjectEvidence,
    Manifest,
    NotCarried,
    Proof,
    SequenceEvidence,
    StoredObject,
    TableEvidence,
)

NOW = datetime(2026, 11, 23, 2, 0, 3, 123456, tzinfo=UTC)
MANIFEST = Manifest(
    source="main/caf%C3%A9",
    id="20261123T020003Z-1a2b3c",
    kind="postgres_database",
    taken_at=NOW,
    finished_at=NOW + timedelta(minutes=3),
    duration=timedelta(seconds=180.5),
    server_version="17.10",
    server_major=17,
    programs={"pg_dump": "17.10"},
    objects=[StoredObject(name="dump.pgc.zst", role="dump", bytes=10, sha256="a" * 64, content_bytes=30)],
    compression="zstd 3",
    evidence=Evidence(
        database=DatabaseProperties(encoding="UTF8", provider="libc", collate="C", ctype="C", owner="café 🦉"),
        tables=[
            TableEvidence(name="public.t", kind="table", rows=3, bytes=8192, content_hash="-123456789012345678901")
        ],
        sequences=[SequenceEvidence(name="s", before=(1, False), after=(2, True), increment=1, cycle=False)],
        large_objects=LargeObjectEvidence(count=0),
        objects={"table public.t": "00ff"},
    ),
    not_carried=[NotCarried(what="rows of app.elsewhere", why="another server")],
    restore_commands=["zstd -dc dump.pgc.zst | pg_restore -d NEW"],
)
PROOF = Proof(
    source=MANIFEST.source,
    id=MANIFEST.id,
    target="nas",
    checked_at=NOW,
    result="equal",
    method="restored",
    restore_seconds=1.25,
)


def test_manifest_comes_back_as_it_was_written() -> None:
    assert Manifest.from_bytes(MANIFEST.to_bytes(), "here") == MANIFEST
    assert Manifest.from_bytes(MANIFEST.to_bytes(), "here").to_bytes() == MANIFEST.to_bytes()


def test_proof_comes_back_as_it_was_written() -> None:
    assert Proof.from_bytes(PROOF.to_bytes(), "here") == PROOF


@pytest.mark.parametrize("document", [MANIFEST, PROOF], ids=["manifest", "proof"])
def test_every_altered_byte_is_found(document: Manifest | Proof) -> None:
    whole = document.to_bytes()
    for at in range(len(whole)):
        bent = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        try:
            read = type(document).from_bytes(bent, "here")
        except BackupDamaged as error:
            assert "here" in str(error)
        else:
            # White space between the parts of JSON may change into other white space: that alters nothing that is said.
            assert whole[at : at + 1].isspace()
            assert read == document


@pytest.mark.parametrize("document", [MANIFEST, PROOF], ids=["manifest", "proof"])
def test_every_cut_is_found(document: Manifest | Proof) -> None:
    whole = document.to_bytes()
    for length in range(len(whole) - 1):  # without the last byte, a line's end, it is still whole
        with pytest.raises(BackupDamaged, match="not a complete JSON document"):
            type(document).from_bytes(whole[:length], "here")


def test_manifest_of_a_later_format_is_refused_and_says_so() -> None:
    later = MANIFEST.model_copy(update={"format": 2})
    with pytest.raises(BackupDamaged, match="not a format-1 document"):
        Manifest.from_bytes(later.to_bytes(), "here")


def test_proof_is_no_manifest() -> None:
    with pytest.raises(BackupDamaged, match="not a format-1 document"):
        Manifest.from_bytes(PROOF.to_bytes(), "here")


@pytest.mark.parametrize("data", [b"[]", b"null", b"1", b'"digest"', b"\xff\xfe", b"{}"])
def test_other_json_is_no_manifest(data: bytes) -> None:
    with pytest.raises(BackupDamaged):
        Manifest.from_bytes(data, "here")


def test_manifest_adds_up_its_objects_and_rows() -> None:
    assert (MANIFEST.bytes, MANIFEST.evidence.rows) == (10, 3)
    assert MANIFEST.object("dump") == MANIFEST.objects[0]
    assert MANIFEST.object("globals") is None


def test_fingerprint_follows_the_objects_not_their_order() -> None:
    one = Evidence(objects={"a": "1", "b": "2"})
    assert one.schema_fingerprint == Evidence(objects={"b": "2", "a": "1"}).schema_fingerprint
    assert one.schema_fingerprint != Evidence(objects={"a": "1", "b": "3"}).schema_fingerprint


@pytest.mark.parametrize(
    ("results", "damage", "status"),
    [
        ([], None, "unverified"),
        (["equal"], None, "verified"),
        (["equal", "different"], None, "failed"),
        (["different", "equal"], None, "verified"),
        (["equal", "damaged"], None, "failed"),
        (["equal", "failed"], None, "failed"),
        (["equal"], "dump.pgc.zst is missing", "failed"),
    ],
)
def test_status_follows_the_newest_proof_and_the_damage(results: list[str], damage: str | None, status: str) -> None:
    proofs = [
        PROOF.model_copy(update={"result": result, "checked_at": NOW + timedelta(days=day)})
        for day, result in enumerate(results)
    ]
    for order in (proofs, proofs[::-1]):
        record = BackupRecord(target="nas", location="/nas", manifest=MANIFEST, proofs=order, damage=damage)
        assert record.status == status
