"""`homelab convert` as a process of its own: by path and by name, with what it prints and how it ends."""

from __future__ import annotations

import os
from pathlib import Path

import jsonschema
import pytest

from tests.integration.cli.conftest import homelab
from tests.peers.image_programs import compiled

INVENTORY = """\
homelab: home
hosts:
  main: {address: 192.168.1.10}
stacks:
  wiki: {path: stacks/wiki, host: main}
"""
WIKI = """\
services:
  wiki:
    image: requarks/wiki:2
    environment: {DB_PASS: hunter2x}
    ports: ["8080:3000"]
    volumes:
      - data:/data
volumes:
  data:
"""
# The document that the issue promises.
SCHEMA = {
    "type": "object",
    "required": ["stack", "status", "leaves", "objects", "blockers", "errors"],
    "additionalProperties": False,
    "properties": {
        "stack": {"type": "string"},
        "status": {"enum": ["converted", "blocked", "invalid"]},
        "leaves": {
            "required": ["total", "carried", "replaced", "dropped", "blocked", "unaccounted"],
            "additionalProperties": {"type": "integer"},
        },
        "objects": {"type": "integer"},
        "blockers": {"items": {"required": ["file", "line", "message"], "minProperties": 3, "maxProperties": 3}},
        "errors": {"items": {"required": ["file", "line", "column", "message", "hint"], "maxProperties": 5}},
    },
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    kompose = Path(os.environ.get("HOMELAB_KOMPOSE") or compiled() / "kompose")
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs/kompose").symlink_to(kompose)
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "stacks/wiki").mkdir(parents=True)
    (tmp_path / "stacks/wiki/compose.yaml").write_text(WIKI)
    return tmp_path


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stack", ["stacks/wiki", "stacks/wiki/compose.yaml"])
def test_path_needs_no_inventory(folder: Path, stack: str) -> None:
    said = homelab(folder, "convert", stack, "-o", "out", "--json")
    assert said.status == 0, said.err
    jsonschema.validate(said.json, SCHEMA)
    assert (said.json["stack"], said.json["status"], said.json["leaves"]["unaccounted"]) == ("wiki", "converted", 0)
    assert "hunter2x" not in said.out + said.err
    assert (folder / "out/base/secrets/wiki-env/DB_PASS").read_text() == "hunter2x"
    assert (folder / "out/kompose/wiki-deployment.yaml").exists()


def test_report_is_the_same_from_wherever_it_is_made(folder: Path) -> None:
    assert homelab(folder, "convert", "stacks/wiki", "-o", "one").status == 0
    assert homelab(folder / "stacks", "convert", str(folder / "stacks/wiki"), "-o", "../two").status == 0
    one, two = (_contents(folder / name) for name in ("one", "two"))
    assert one == two


def test_stack_of_the_inventory_is_known_by_its_name(folder: Path) -> None:
    (folder / "homelab.yaml").write_text(INVENTORY)
    said = homelab(folder, "convert", "wiki", "-o", "out", "--storage-class", "fast", "--json")
    assert said.status == 0, said.err
    assert "storageClassName: fast" in (folder / "out/base/persistentvolumeclaim-data.yaml").read_text()
    unknown = homelab(folder, "convert", "wikki", "-o", "out2")
    assert unknown.status == 2
    assert "did you mean 'wiki'?" in unknown.err
    assert not (folder / "out2").exists()


def test_blocked_stack_is_written_and_ends_with_1(folder: Path) -> None:
    text = WIKI.replace("      - data:/data", "      - data:/data\n      - /var/run/docker.sock:/var/run/docker.sock")
    (folder / "stacks/wiki/compose.yaml").write_text(text)
    said = homelab(folder, "convert", "stacks/wiki", "-o", "out", "--json")
    assert said.status == 1
    jsonschema.validate(said.json, SCHEMA)
    (blocker,) = said.json["blockers"]
    assert (blocker["file"].rpartition("/")[2], blocker["line"]) == ("compose.yaml", 8)
    assert "Docker" in blocker["message"]
    assert (folder / "out/REPORT.md").exists()


def test_malformed_project_is_invalid_with_line_and_hint(folder: Path) -> None:
    (folder / "stacks/wiki/compose.yaml").write_text(WIKI.replace("    image", "\timage"))
    said = homelab(folder, "convert", "stacks/wiki", "-o", "out", "--json")
    assert said.status == 2
    jsonschema.validate(said.json, SCHEMA)
    assert said.json["status"] == "invalid"
    assert said.json["errors"][0]["line"] == 3
    assert said.json["errors"][0]["hint"]
    assert not (folder / "out").exists()


def test_missing_kompose_is_said_with_the_next_step(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "programs/kompose").unlink()
    monkeypatch.setenv("PATH", str(folder / "programs"))  # where there may be no other one
    monkeypatch.delenv("HOMELAB_KOMPOSE", raising=False)
    said = homelab(folder, "convert", "stacks/wiki", "-o", "out", "--json")
    assert said.status == 1
    assert "Kompose" in said.json["error"]["why"]
    assert "HOMELAB_KOMPOSE" in said.json["error"]["next"]


def test_folder_with_something_else_is_refused(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/thesis.txt").write_text("mine")
    said = homelab(folder, "convert", "stacks/wiki", "-o", "out")
    assert said.status == 1
    assert "next: name a new or empty folder" in said.err
