"""Compose projects of a few lines, written for one test."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Project = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Writes files into a folder, the working one, and gives its path; `compose` is the text of compose.yaml."""

    def write(compose: str = "", **files: str) -> Path:
        named = {"compose.yaml": compose, **{name.replace("__", "/"): text for name, text in files.items()}}
        for name, text in named.items():
            if text:
                path = Path("stack") / name.replace("_DOT_", ".")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(textwrap.dedent(text).lstrip("\n"))
        return Path("stack")

    monkeypatch.chdir(tmp_path)
    return write
