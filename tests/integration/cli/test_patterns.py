"""Patterns that choose nothing are told by every command that uses them; an empty server is not."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Lab, homelab
from tests.integration.house import House
from tests.peers.postgres import start_server

pytestmark = pytest.mark.postgres


@pytest.fixture
def mistyped(lab: Lab, tmp_path: Path) -> House:
    """A pattern with a letter too many beside one that is right."""
    wrong = f"{lab.photos.replace('photos', 'phottos')}*"
    changes = {"databases": {"main": {"include": [lab.photos, wrong]}}, "backups": {"targets": {"usb": None}}}
    return House(tmp_path / "house", lab.peer, [], changes)


def test_pattern_that_matches_nothing_fails_check_connect_at_its_line(mistyped: House, lab: Lab) -> None:
    said = homelab(mistyped.folder, "check", "--connect")
    assert said.status == 1 and "FAILED server main: " in said.err
    assert f"did you mean '{lab.photos}'?" in said.err
    (problem,) = homelab(mistyped.folder, "check", "--connect", "--json").json
    line = mistyped.inventory.read_text().splitlines()[problem["line"] - 1]
    assert line[problem["column"] - 1 :].startswith("phottos_")
    assert problem["file"] == "homelab.yaml" and "matches no database" in problem["message"]
    assert problem["hint"] == f"did you mean '{lab.photos}'?"


@pytest.mark.parametrize("command", ["discover", "backup"])
def test_pattern_that_matches_nothing_fails_discover_and_backup(mistyped: House, lab: Lab, command: str) -> None:
    said = homelab(mistyped.folder, command)
    assert said.status == 1
    assert f"{mistyped.inventory}:" in said.err and "matches no database" in said.err
    assert f"did you mean '{lab.photos}'?" in said.err
    assert "as known before" not in said.err


def test_server_with_databases_of_which_none_is_left_fails(lab: Lab, tmp_path: Path) -> None:
    changes = {"databases": {"main": {"include": ["*"], "exclude": ["[a-z]*", "[!a-z]*"]}}}
    house = House(tmp_path / "house", lab.peer, [], changes)
    for command in (("check", "--connect"), ("discover",), ("backup",)):
        said = homelab(house.folder, *command)
        assert said.status == 1 and "none is left to back up" in said.err, command


@pytest.mark.parametrize("choice", [{}, {"exclude": ["postgres"]}])
def test_empty_server_is_fine(tmp_path: Path, choice: dict[str, list[str]]) -> None:
    with ExitStack() as stack:
        house = House(
            tmp_path / "house", start_server(15, stack), [], {"databases": {"main": {"include": ["*"], **choice}}}
        )
        for command in (("check", "--connect"), ("discover",), ("backup",)):
            said = homelab(house.folder, *command)
            assert said.status == 0, said.err
