"""Which Go builds the tests' S3 server: never one that is too old for it, which is what Debian 12 installs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.go import NEEDED, WHEEL, find_go, go_version


def go_that_says(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    program = folder / "go"
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("said", "version"), [("go1.19.8", (1, 19, 8)), ("go1.26", (1, 26)), ("go1.27rc1", (1, 27)), ("devel", ())]
)
def test_go_version_is_read_as_numbers(tmp_path: Path, said: str, version: tuple[int, ...]) -> None:
    assert go_version(str(go_that_says(tmp_path / "bin", said))) == version


def test_find_go_old_one_on_path_is_passed_over_for_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = go_that_says(tmp_path / "bin", "go1.19.8")
    fetched = go_that_says(tmp_path / "cache" / WHEEL.replace("==", "-") / "go/bin", "go1.26.6")
    monkeypatch.setenv("PATH", f"{old.parent}:/usr/bin:/bin")
    monkeypatch.setenv("HOMELAB_TEST_CACHE", str(tmp_path / "cache"))
    assert find_go() == str(fetched)
    assert go_version(find_go()) >= NEEDED


def test_find_go_new_enough_on_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = go_that_says(tmp_path / "bin", "go1.25.1")
    monkeypatch.setenv("PATH", f"{new.parent}:/usr/bin:/bin")
    monkeypatch.setenv("HOMELAB_TEST_CACHE", str(tmp_path / "cache"))
    assert find_go() == str(new)
    assert not (tmp_path / "cache").exists()
