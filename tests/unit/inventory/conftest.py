"""Fixtures of the inventory's tests: a file to write an inventory into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from homelab_pipelines.inventory.loader import Problem, check

Checker = Callable[[str], list[Problem]]


@pytest.fixture
def problems_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checker:
    """Check a text as homelab.yaml."""
    monkeypatch.chdir(tmp_path)

    def checked(text: str) -> list[Problem]:
        Path("homelab.yaml").write_text(text)
        return check("homelab.yaml")

    return checked
