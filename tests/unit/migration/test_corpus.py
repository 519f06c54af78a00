"""Compose files that others wrote: each is read, or refused with a place and a hint; none ends in a traceback.

HOMELAB_CORPUS names their folder, with one folder for each project. Names that begin with bad- are malformed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from homelab_pipelines.migration.reading import read_stack
from homelab_pipelines.migration.stack import Stack, StackInvalid

CORPUS = os.environ.get("HOMELAB_CORPUS", "")
ENTRIES = sorted(path for path in Path(CORPUS).iterdir() if path.is_dir()) if CORPUS else []
# Written by Compose where nothing is said, by the last key of their path; sentry alone has 260 `required: true`.
_ADDED = {"entrypoint", "command", "default", "ipam", "name", "required", "dockerfile", "mode", "protocol"}
_ADDED_EMPTY = {"resources", "placement", "volume", "bind", "condition", "restart"}

pytestmark = pytest.mark.skipif(not ENTRIES, reason="HOMELAB_CORPUS names no folder of Compose projects")


def read(entry: Path) -> Stack:
    return read_stack(entry, environment={"DOCKER_COMPOSE_REPOROOT_PATH": str(entry)})


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entry_is_read_or_refused_with_line_and_hint(entry: Path) -> None:
    try:
        stack = read(entry)
    except StackInvalid as error:
        assert error.problems
        assert [problem for problem in error.problems if not problem.hint or not problem.line] == []
        return
    assert not entry.name.startswith("bad-"), "what is malformed is refused"
    assert stack.model["services"]
    assert [warning for warning in stack.warnings if not warning.hint] == []


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_leaf_that_is_written_has_a_place_of_its_own(entry: Path) -> None:
    try:
        stack = read(entry)
    except StackInvalid:
        pytest.skip("it is not read")
    left = {path for path, _ in stack.leaves() if path not in stack.places}
    assert {path for path in left if path[-1] not in _ADDED | _ADDED_EMPTY} == set()


def test_most_leaves_have_a_place_of_their_own() -> None:
    found = own = 0
    for entry in ENTRIES:
        try:
            stack = read(entry)
        except StackInvalid:
            continue
        paths = [path for path, _ in stack.leaves()]
        found += len(paths)
        own += sum(path in stack.places for path in paths)
    assert own / found > 0.85, f"{own} of {found}"
