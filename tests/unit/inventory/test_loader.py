"""From file to model: what cannot be read at all, positions, cross-checks of half-valid files, cheap imports."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from homelab_pipelines.inventory.document import read_document
from homelab_pipelines.inventory.loader import InventoryInvalid, Problem, check, load
from homelab_pipelines.inventory.template import commented_template
from tests.unit.inventory.conftest import Checker
from tests.unit.inventory.test_template import switched_on

FULL = switched_on(commented_template())
KEY = re.compile(r"(?:(?<=^)|(?<=[ {]))([a-z][a-z0-9_]*)(?=:( |$))")


def _keys() -> list[tuple[int, int]]:
    """Line and column, from 1, of every key in the template with all keys switched on; not of names and labels."""
    named = {"main", "nas", "offsite", "room", "disk", "nextcloud"}
    found = []
    for number, line in enumerate(FULL.splitlines(), start=1):
        code = re.split(r"(?:^| )#", line)[0]
        found += [(number, match.start() + 1) for match in KEY.finditer(code) if match[1] not in named]
    return found


@pytest.mark.parametrize("place", _keys(), ids=lambda place: f"{place[0]}:{place[1]}")
def test_check_any_key_misspelt_is_reported_where_it_stands(place: tuple[int, int], problems_of: Checker) -> None:
    line, column = place
    lines = FULL.splitlines()
    before, after = lines[line - 1][: column - 1], lines[line - 1][column - 1 :]
    key = after.partition(":")[0]
    lines[line - 1] = f"{before}{key}x{after[len(key) :]}"
    problems = problems_of("\n".join(lines))
    here = [problem for problem in problems if (problem.line, problem.column) == place]
    kinds = [problem for problem in problems if "needs one of" in problem.message]
    assert any(problem.message.startswith("unknown key") for problem in here) or kinds or key in ("env", "file")
    assert any(f"'{key}'" in problem.hint for problem in problems), problems


def test_keys_of_the_template_are_found() -> None:
    assert len(_keys()) > 55


def test_load_valid_file_gives_typed_values(tmp_path: Path) -> None:
    path = tmp_path / "homelab.yaml"
    path.write_text(FULL)
    homelab = load(path)
    assert homelab.hosts["main"].memory == 32 * 1024**3
    assert homelab.backups.promise.age == timedelta(hours=26)
    assert homelab.databases["main"].include == ("*",)
    assert homelab.address_of("main") == "127.0.0.1"
    assert homelab.address_of("nas.example.org") == "nas.example.org"


def test_check_missing_file_names_the_next_command(tmp_path: Path) -> None:
    path = tmp_path / "homelab.yaml"
    [problem] = check(path)
    assert str(problem) == f"{path}: there is no such file\n  homelab init writes one to start from"
    assert (problem.line, problem.column) == (0, 0)


def test_check_directory_says_so(tmp_path: Path) -> None:
    [problem] = check(tmp_path)
    assert problem.message == "this is a directory"
    assert str(tmp_path / "homelab.yaml") in problem.hint


def test_check_loop_of_links_is_a_problem_and_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "homelab.yaml"
    path.symlink_to(path)
    [problem] = check(path)
    assert problem.message.startswith("it cannot be read: ")


def test_check_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "homelab.yaml"
    path.write_bytes(b"\xef\xbb\xbfhomelab: home\r\ntimezone: Mars/Base\r\n")
    assert [(problem.line, problem.column) for problem in check(path)] == [(2, 11)]


def test_check_comments_only_is_an_empty_file(problems_of: Checker) -> None:
    [problem] = problems_of("# nothing yet\n")
    assert "empty" in problem.message


def test_check_wrong_section_is_reported_once_and_the_others_are_still_compared(problems_of: Checker) -> None:
    problems = problems_of(
        "homelab: home\n"
        "hosts: [main]\n"
        "databases:\n"
        "  main: {kind: postgres, at: {host: main}, verify: {server: zeus}}\n"
        "backups: {targets: {nas: {directory: 5}}}\n"
    )
    assert [problem.message for problem in problems] == [
        "hosts: must be a mapping (key: value), here stands a list",
        "server: there is no 'zeus' among databases",
        "directory: must be text, here stands a number",
    ]


def test_check_merged_mapping_is_used_and_own_keys_win(tmp_path: Path) -> None:
    path = tmp_path / "homelab.yaml"
    path.write_text(
        "homelab: home\n"
        "hosts:\n"
        "  main: &base {address: 192.168.1.10, arch: amd64, cpu: 4}\n"
        "  nas: {<<: *base, address: 192.168.1.20, cpu: 2}\n"
    )
    nas = load(path).hosts["nas"]
    assert (nas.address, nas.arch, nas.cpu) == ("192.168.1.20", "amd64", 2)


def test_check_mistake_in_a_merged_mapping_stands_at_the_anchor(problems_of: Checker) -> None:
    problems = problems_of(
        "homelab: home\nhosts:\n  main: &base {address: 192.168.1.10, cpu: four}\n  nas: {<<: *base}\n"
    )
    assert {(problem.line, problem.column) for problem in problems} == {(3, 44)}
    assert len(problems) == 1


def _paths(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(below for key, value in entries for below in _paths(value, (*path, key)))]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("a:*1%s/ .", max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["env", "host", "s3", "x"]), inner),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_check_any_value_anywhere_gives_problems_with_places_and_no_traceback(data: st.DataObject) -> None:
    content = read_document(FULL).data
    for path in data.draw(st.lists(st.sampled_from(_paths(content)[1:]), min_size=1, max_size=3)):
        here = content
        for step in path[:-1]:
            here = here[step] if isinstance(here, dict) and step in here else {}
        if isinstance(here, dict):
            here[path[-1]] = data.draw(VALUES)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "homelab.yaml"
        file.write_text(yaml.safe_dump(content, allow_unicode=True))
        problems = check(file)
    assert all(problem.line >= 1 and problem.column >= 1 and problem.message and problem.hint for problem in problems)


def test_problem_is_json_ready(problems_of: Checker) -> None:
    [problem] = problems_of("homelab: home\nowner: family\n")
    assert asdict(problem) == {
        "file": "homelab.yaml",
        "line": 2,
        "column": 8,
        "message": "owner: an owner is an e-mail address or a team",
        "hint": "write team:family, or an e-mail address",
    }


def test_invalid_inventory_is_an_exception_with_all_lines() -> None:
    problems = [Problem("homelab.yaml", 1, 2, "one"), Problem("homelab.yaml", 3, 4, "two", "mend it")]
    assert str(InventoryInvalid(problems)) == "homelab.yaml:1:2: one\nhomelab.yaml:3:4: two\n  mend it"


def test_load_imports_nothing_heavy(tmp_path: Path) -> None:
    path = tmp_path / "homelab.yaml"
    path.write_text(commented_template())
    program = (
        "import sys\n"
        "from homelab_pipelines.inventory.loader import load\n"
        "load(sys.argv[1])\n"
        "heavy = {'dagster', 'boto3', 'botocore', 'psycopg', 'pyrage', 'apprise', 'requests', 'docker', 'kubernetes'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run((sys.executable, "-c", program, str(path)), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
