"""A pg_dump that lies or dies: whatever it claims, only a whole dump is ever committed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from homelab_pipelines.backup.errors import CaptureFailed, SourceUnavailable
from homelab_pipelines.backup.programs import BIN_VARIABLE, client_for, installations
from homelab_pipelines.backup.stores.directory import DirectoryStore
from tests.integration.backup.conftest import Key, capture
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.postgres


@pytest.fixture
def fake_programs(
    source_server: PostgresPeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Path]]:
    """A folder of client programs that comes first, for tests to replace one in; and the folder of the real ones."""
    real = client_for(source_server.major).bin
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in ("pg_dump", "pg_dumpall", "pg_restore", "psql"):
        _script(folder / program, f'exec "{real}/{program}" "$@"')
    monkeypatch.setenv(BIN_VARIABLE, str(folder))
    installations.cache_clear()
    assert client_for(source_server.major).bin == folder
    yield folder, real
    monkeypatch.undo()
    installations.cache_clear()


def _script(path: Path, body: str, real: Path | None = None) -> None:
    asked = f'[ "$1" = --version ] && exec "{real}/{path.name}" --version\n' if real else ""
    path.write_text(f"#!/bin/sh\n{asked}{body}\n")
    path.chmod(0o755)


LIES = {
    "writes nothing and says all is well": ("exit 0", "ended with status 0 but wrote no dump"),
    "writes garbage and says all is well": ("echo not a dump at all", "ended with status 0 but wrote no dump"),
    "writes half and fails": (
        '"{real}" "$@" | head -c 2000; echo "out of luck" >&2; exit 1',
        "exit status 1: out of luck",
    ),
    "writes all and fails": ('"{real}" "$@"; echo "at the very end" >&2; exit 1', "exit status 1: at the very end"),
    "is killed": ('"{real}" "$@" | head -c 2000; kill -9 $$', "ended by signal 9"),
}


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("program", ["pg_dump", "pg_dumpall"])
@pytest.mark.parametrize("lie", LIES)
def test_program_that_lies_commits_nothing(
    source_server: PostgresPeer,
    tiny: str,
    nas: DirectoryStore,
    usb: DirectoryStore,
    key: Key,
    fake_programs: tuple[Path, Path],
    lie: str,
    program: str,
    encrypted: bool,
) -> None:
    folder, real = fake_programs
    body, message = LIES[lie]
    _script(folder / program, body.replace("{real}", str(real / program)), real)
    error = SourceUnavailable if "signal" in message else CaptureFailed
    options = {"options": key.options} if encrypted else {}
    with pytest.raises(error) as caught:
        capture(source_server, tiny, nas, usb, **options)
    assert message in str(caught.value)
    assert tiny in str(caught.value)
    for store in (nas, usb):
        assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_warning_of_pg_dump_is_kept_in_the_manifest(
    source_server: PostgresPeer, tiny: str, nas: DirectoryStore, fake_programs: tuple[Path, Path]
) -> None:
    folder, real = fake_programs
    warning = "subscriptions not dumped because current user is not a superuser"
    _script(folder / "pg_dump", f'echo "pg_dump: warning: {warning}" >&2; exec "{real}/pg_dump" "$@"', real)
    (left_out,) = capture(source_server, tiny, nas).manifest.not_carried
    assert (left_out.what, left_out.why) == ("what pg_dump warned of", warning)


def test_real_programs_behind_the_same_folder_succeed(
    source_server: PostgresPeer, tiny: str, nas: DirectoryStore, fake_programs: tuple[Path, Path]
) -> None:
    assert os.environ[BIN_VARIABLE] == str(fake_programs[0])
    assert capture(source_server, tiny, nas).missed == {}
