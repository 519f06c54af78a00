"""Compose projects of a few lines, written for one test."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from homelab_pipelines.migration.convert import Conversion, convert
from homelab_pipelines.migration.draft import Policy
from homelab_pipelines.migration.kompose import PROGRAM_VARIABLE
from homelab_pipelines.migration.reading import read_stack
from tests.peers.image_programs import compiled
from tests.unit.migration.kubernetes_model import faults

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


@pytest.fixture(scope="session")
def kompose_program() -> str:
    """The real Kompose: the one that HOMELAB_KOMPOSE names, else compiled as the image's is."""
    return os.environ.get(PROGRAM_VARIABLE) or str(compiled() / "kompose")


@pytest.fixture
def kompose(kompose_program: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lets conversions find the real Kompose."""
    monkeypatch.setenv(PROGRAM_VARIABLE, kompose_program)
    return kompose_program


Converted = Callable[..., Conversion]


@pytest.fixture
def converted(project: Project, kompose: str) -> Converted:
    """Converts the project of a text; each object has to be one that Kubernetes' model allows."""

    def convert_text(compose: str, policy: Policy | None = None, **files: str) -> Conversion:
        conversion = convert(read_stack(project(compose, **files)), policy)
        assert [fault for each in conversion.objects for fault in faults(each)] == []
        return conversion

    return convert_text
