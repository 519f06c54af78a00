"""The assets of a stack's manifests: what they write and say, what changes their versions, what fails their checks."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from homelab_pipelines.assets.stage_1_foundation.compose_stack import compose_stack_asset
from homelab_pipelines.assets.stage_4_kubernetes.manifests import NOTHING_BLOCKED, PARSES, manifests_assets
from homelab_pipelines.inventory.loader import load
from homelab_pipelines.migration.kompose import PROGRAM_VARIABLE
from homelab_pipelines.resources.stacks import StacksResource
from homelab_pipelines.schedules.stacks import stacks_sensor
from tests.peers.image_programs import compiled

COMPOSE = """services:
  web:
    image: nginx:1.27
    environment: {DB_PASSWORD: only-a-test-7391, MODE: quiet}
    ports: ["8080:80"]
"""
SOCKET = '    volumes: ["/var/run/docker.sock:/var/run/docker.sock"]\n'
STACK, KOMPOSE, COMPLETE = (
    dg.AssetKey([kind, "cloud"]) for kind in ("compose_stack", "kompose_manifests", "kubernetes_manifests")
)


@pytest.fixture(autouse=True)
def kompose(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, as the image has it."""
    monkeypatch.setenv(PROGRAM_VARIABLE, os.environ.get(PROGRAM_VARIABLE) or str(compiled() / "kompose"))


@pytest.fixture
def inventory(stack_inventory: Callable[[str], Path]) -> Path:
    return stack_inventory(COMPOSE)


def definitions(inventory: Path) -> dg.Definitions:
    stacks = StacksResource(inventory=str(inventory), home=str(inventory.parent / ".homelab"))
    return dg.Definitions(
        assets=[compose_stack_asset("cloud", "main", None), manifests_assets("cloud", None)],
        sensors=stacks_sensor(load(inventory)),
        resources={"stacks": stacks},
    )


def run(inventory: Path) -> dg.ExecuteInProcessResult:
    job = definitions(inventory).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(raise_on_error=False)


def versions(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    return {
        event.asset_key.path[0]: (event.materialization.tags or {})["dagster/data_version"]
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }


def test_stack_becomes_manifests_that_lie_in_the_folder_of_state(inventory: Path) -> None:
    result = run(inventory)
    assert result.success
    said = {event.asset_key: event.materialization.metadata for event in result.get_asset_materialization_events()}
    values = {name: value.value for name, value in said[COMPLETE].items()}
    folder = inventory.parent / ".homelab/manifests/cloud"
    assert values["folder"] == str(folder)
    assert (folder / "base/deployment-web.yaml").is_file() and (folder / "kompose/web-deployment.yaml").is_file()
    assert values["values_total"] == values["values_carried"] + values["values_replaced"] + values["values_dropped"]
    assert values["values_unaccounted"] == values["values_blocked"] == 0
    assert "services.web.image" in str(values["report"])
    assert said[KOMPOSE]["version"].value.startswith("1.")
    assert said[KOMPOSE]["objects"].value == 2
    assert {each.check_name: each.passed for each in result.get_asset_check_evaluations()} == {
        "resolves": True,
        PARSES: True,
        NOTHING_BLOCKED: True,
    }


def test_no_secret_stands_in_metadata(inventory: Path) -> None:
    result = run(inventory)
    assert result.success and "only-a-test-7391" not in "".join(map(repr, result.all_events))
    secret = inventory.parent / ".homelab/manifests/cloud/base/secrets/web-env/DB_PASSWORD"
    assert secret.read_text() == "only-a-test-7391" and secret.stat().st_mode & 0o077 == 0


def test_versions_change_with_what_the_files_say_and_only_then(inventory: Path) -> None:
    compose = inventory.parent / "cloud/compose.yaml"
    first = versions(run(inventory))
    assert versions(run(inventory)) == first
    compose.write_text(COMPOSE.replace("quiet", "loud"))
    changed = versions(run(inventory))
    assert [name for name in first if first[name] == changed[name]] == []


def test_blocked_stack_is_written_and_its_check_names_file_and_line(inventory: Path) -> None:
    (inventory.parent / "cloud/compose.yaml").write_text(COMPOSE + SOCKET)
    result = run(inventory)
    assert result.success
    [check] = [each for each in result.get_asset_check_evaluations() if each.check_name == NOTHING_BLOCKED]
    assert not check.passed
    assert str(check.description).startswith("compose.yaml:6: services.web.volumes[0]")
    assert (inventory.parent / ".homelab/manifests/cloud/REPORT.md").is_file()


def test_stack_that_cannot_be_read_keeps_its_manifests(inventory: Path) -> None:
    assert run(inventory).success
    report = inventory.parent / ".homelab/manifests/cloud/REPORT.md"
    before = report.read_bytes()
    (inventory.parent / "cloud/compose.yaml").write_text(f"{COMPOSE}volumes: [")
    result = run(inventory)
    assert set(versions(result)) == set()
    assert report.read_bytes() == before
    alone = dg.materialize(
        [manifests_assets("cloud", None)],
        resources={"stacks": StacksResource(inventory=str(inventory), home=str(inventory.parent / ".homelab"))},
        raise_on_error=False,
    )
    [failed] = [event for event in alone.all_events if event.is_step_failure]
    assert "cloud/compose.yaml:6:" in str(failed.event_specific_data)


def test_kompose_missing_fails_with_the_next_step(inventory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRAM_VARIABLE, str(inventory.parent / "nowhere"))
    [failed] = [event for event in run(inventory).all_events if event.is_step_failure]
    assert "install Kompose" in str(failed.event_specific_data)


def test_conversion_follows_a_change_and_nothing_else(inventory: Path) -> None:
    """The daemon's evaluations, one after the other, with runs between them."""
    made = definitions(inventory)
    with dg.DagsterInstance.ephemeral() as instance:
        now = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)

        def asked(minutes: int, cursor: dg.AssetDaemonCursor | None = None) -> dg.EvaluateAutomationConditionsResult:
            at = now + timedelta(minutes=minutes)
            return dg.evaluate_automation_conditions(made, instance=instance, cursor=cursor, evaluation_time=at)

        def execute(*keys: dg.AssetKey) -> None:
            job = made.resolve_implicit_global_asset_job_def()
            assert job.execute_in_process(instance=instance, asset_selection=list(keys)).success

        begun = asked(0)
        assert begun.total_requested == 0
        hourly = asked(40, begun.cursor)
        assert hourly.get_num_requested(STACK) == 1
        execute(STACK)
        first = asked(41, hourly.cursor)
        assert first.get_num_requested(KOMPOSE) == first.get_num_requested(COMPLETE) == 1
        execute(KOMPOSE, COMPLETE)
        execute(STACK)
        again = asked(42, first.cursor)
        assert again.total_requested == 0, "read again, with nothing new"
        (inventory.parent / "cloud/compose.yaml").write_text(COMPOSE.replace("quiet", "loud"))
        execute(STACK)
        changed = asked(43, again.cursor)
        assert changed.get_num_requested(KOMPOSE) == changed.get_num_requested(COMPLETE) == 1
