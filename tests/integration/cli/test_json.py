"""`--json`: standard output is one JSON document whatever happens, and the text stands on standard error as ever."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.integration.cli.conftest import Lab, Said, homelab

pytestmark = pytest.mark.postgres

COMMANDS = [
    ("backups",),
    ("verify",),
    ("prune",),
    ("backup",),
    ("discover",),
    ("restore", "photos", "--new-database", "x"),
    ("mark-target", "nas"),
    ("up", "--no-stay"),
]


def error(said: Said) -> dict[str, object]:
    """The one key of the document of a command that has no result."""
    assert set(said.json) == {"error"}
    found: dict[str, object] = said.json["error"]
    assert set(found) == {"what", "why", "next", "problems"}
    return found


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_invalid_inventory_is_a_document_with_its_problems(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "homelab.yaml").write_text("homelab: home\nbakups: {}\n")
    plain, said = homelab(tmp_path, *command), homelab(tmp_path, *command, "--json")
    assert (plain.status, said.status) == (2, 2)
    assert plain.out == "" and "homelab.yaml:2:1: unknown key 'bakups'" in said.err
    (problem,) = error(said)["problems"]  # type: ignore[misc,attr-defined]
    assert {name: problem[name] for name in ("line", "column", "message", "hint")} == {
        "line": 2,
        "column": 1,
        "message": "unknown key 'bakups'",
        "hint": "did you mean 'backups'?",
    }


@pytest.mark.parametrize(
    "command", [("verify", "nope"), ("backup", "nope"), ("restore", "nope", "--new-database", "x")]
)
def test_unknown_name_is_a_document_that_says_what_there_is(lab: Lab, command: tuple[str, ...]) -> None:
    said = lab.run(*command, "--json")
    found = error(said)
    assert said.status == 1 and "'nope'" in str(found["what"]) and str(found["next"]).startswith("homelab ")
    assert f"{found['what']}: {found['why']}\n  next: {found['next']}\n" in said.err


@pytest.mark.parametrize(
    "call", [("verify", "--id", "x", "--json"), ("backups", "--form", "x", "--json"), ("up", "--json")]
)
def test_wrong_call_is_a_document_too(call: tuple[str, ...], tmp_path: Path) -> None:
    said = homelab(tmp_path, *call)
    assert said.status == 2 and "Usage: " in said.err
    assert error(said)["why"]


def test_database_that_is_called_like_the_option_asks_for_no_json(lab: Lab) -> None:
    said = lab.run("verify", "--", "--json")
    assert said.status == 1 and said.out == "" and "'--json'" in said.err


def test_dead_store_and_missing_secret_are_documents(lab: Lab, tmp_path: Path) -> None:
    said = homelab(tmp_path, "backups", "--from", "not-there", "--json")
    assert said.status == 1 and error(said)["why"]
    data = yaml.safe_load(lab.house.inventory.read_text())
    data["databases"]["main"]["include"] = ["*"]
    (tmp_path / "homelab.yaml").write_text(yaml.safe_dump(data))
    said = homelab(tmp_path, "discover", "--json")
    assert said.status == 1 and "secrets/password" in str(error(said)["why"])


def test_init_says_what_it_wrote_and_what_it_kept(tmp_path: Path) -> None:
    path = str(tmp_path / "homelab.yaml")
    assert homelab(tmp_path, "init", "--json").json == {"written": path, "kept": None}
    again = homelab(tmp_path, "init", "--json")
    assert again.status == 1 and "homelab init --force" in str(error(again)["next"])
    assert homelab(tmp_path, "init", "--force", "--json").json == {"written": path, "kept": f"{path}.old"}


def test_mark_target_says_where(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.house.folder / "secrets", tmp_path / "secrets")
    shutil.copy(lab.house.inventory, tmp_path)
    (tmp_path / "usb").mkdir()
    refused = homelab(tmp_path, "mark-target", "usb", "--json")
    assert refused.status == 1 and "nothing is mounted" in str(error(refused)["why"])
    said = homelab(tmp_path, "mark-target", "usb", "--force", "--json")
    assert said.status == 0 and said.json == {"target": "usb", "location": str(tmp_path / "usb")}
    unknown = homelab(tmp_path, "mark-target", "us", "--json")
    assert unknown.status == 2 and "'us' is not a directory target" in str(error(unknown)["why"])


def test_check_connect_problems_stand_at_the_entries_that_they_are_about(lab: Lab, tmp_path: Path) -> None:
    data = yaml.safe_load(lab.house.inventory.read_text())
    data["databases"]["main"]["at"]["port"] = 1
    data["backups"]["targets"]["usb"]["require_mount"] = True
    data["backups"]["identity"] = {"file": "not-there"}
    shutil.copytree(lab.house.folder / "secrets", tmp_path / "secrets")
    (tmp_path / "nas").mkdir()
    (tmp_path / "homelab.yaml").write_text(yaml.safe_dump(data))
    lines = (tmp_path / "homelab.yaml").read_text().splitlines()
    problems = homelab(tmp_path, "check", "--connect", "--json").json
    shown = [lines[each["line"] - 1][each["column"] - 1 :].partition(":")[0] for each in problems]
    assert shown == ["main", "usb", "identity"]
    assert all(each["file"] == "homelab.yaml" and each["hint"] for each in problems)
