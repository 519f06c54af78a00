"""Compose files that others wrote: each ends converted, or blocked with named reasons, or invalid; nothing is lost.

HOMELAB_CORPUS names their folder, with one folder for each project.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from homelab_pipelines.migration.account import report
from homelab_pipelines.migration.complete.secret_values import distinctive
from homelab_pipelines.migration.convert import convert
from homelab_pipelines.migration.manifests import files
from homelab_pipelines.migration.reading import read_stack
from homelab_pipelines.migration.stack import StackInvalid
from tests.unit.migration.beside_kompose import lacking
from tests.unit.migration.kubernetes_model import faults

CORPUS = os.environ.get("HOMELAB_CORPUS", "")
ENTRIES = sorted(path for path in Path(CORPUS).iterdir() if path.is_dir()) if CORPUS else []

pytestmark = pytest.mark.skipif(not ENTRIES, reason="HOMELAB_CORPUS names no folder of Compose projects")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entry_is_converted_with_nothing_unaccounted(entry: Path, kompose: str) -> None:
    try:
        stack = read_stack(entry, environment={"DOCKER_COMPOSE_REPOROOT_PATH": str(entry)})
        conversion = convert(stack)
    except StackInvalid as error:
        assert [problem for problem in error.problems if not problem.line or not problem.hint] == []
        return
    found = report(conversion)
    assert found["leaves"]["unaccounted"] == 0
    assert sum(found["leaves"].values()) == 2 * found["leaves"]["total"]
    assert (found["status"] == "blocked") is bool(found["blockers"])
    assert [each for each in found["blockers"] if not each["line"] or ": " not in each["message"]] == []
    assert [fault for each in conversion.objects for fault in faults(each)] == []
    assert lacking(conversion) == [], "of what is right in Kompose's objects"
    made = files(conversion)
    assert made == files(convert(stack)), "the same bytes each time"
    values = {content for keys in conversion.secrets.values() for content in keys.values()}
    secret = [value for value in values if b"\n" not in value and distinctive(value.decode(errors="replace"))]
    committed = {path: content for path, content in made.items() if not path.startswith(("kompose/", "base/secrets/"))}
    assert [path for path, content in committed.items() if any(value in content for value in secret)] == []
