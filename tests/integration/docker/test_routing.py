"""The same job under each launcher of one deployment, and runs that the daemon starts by itself."""

from __future__ import annotations

import pytest
import yaml

from homelab_pipelines.backup.configured import ConfiguredBackups
from homelab_pipelines.backup.records import list_store
from homelab_pipelines.inventory.loader import load
from homelab_pipelines.launchers import LAUNCHED_BY_TAG, LAUNCHER_TAG
from homelab_pipelines.local_deployment import graphql, run_state
from tests.deployed import JOB, until
from tests.integration.docker.conftest import Compose

pytestmark = pytest.mark.docker


def configured(compose: Compose) -> ConfiguredBackups:
    return ConfiguredBackups(load(compose.deployment.inventory), compose.folder, compose.deployment.home)


def verified(compose: Compose) -> set[tuple[str, str]]:
    """Source and id of the backups that were restored and found equal, on both targets."""
    listed = [list_store(configured(compose).store(name)).backups for name in ("nas", "usb")]
    found = [
        {(record.manifest.source, record.manifest.id) for record in records if record.status == "verified"}
        for records in listed
    ]
    assert found[0] == found[1]
    return found[0]


def tags(compose: Compose, run_id: str) -> dict[str, str]:
    query = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { tags { key value } } } }"
    found = graphql(compose.web, query, {"id": run_id})["runOrError"]["tags"]
    return {tag["key"]: tag["value"] for tag in found}


def containers(compose: Compose, run_id: str) -> list[str]:
    label = f"label=dagster/run_id={run_id}"
    return compose.engine.docker("ps", "--all", "--quiet", "--filter", label).split()


def test_nightly_backup_runs_unchanged_under_each_launcher(compose: Compose) -> None:
    steps = {}
    for launcher, boxes, why in (("local", 0, f"tag {LAUNCHER_TAG}"), ("docker", 1, "the default")):
        before = verified(compose)
        run_id = compose.launch({LAUNCHER_TAG: launcher} if why.startswith("tag") else None)
        assert compose.wait(run_id) == "SUCCESS", compose.diagnostics(run_id)
        assert tags(compose, run_id)[LAUNCHED_BY_TAG] == launcher
        assert f"Sent to launcher {launcher} ({why})" in compose.reasons(run_id)
        assert len(containers(compose, run_id)) == boxes
        new = {source for source, _ in verified(compose) - before}
        assert new == {source.id for source in configured(compose).sources()}, "each restored and found equal"
        steps[launcher] = run_state(compose.web, run_id).steps
    assert steps["local"] == steps["docker"] and set(steps["docker"].values()) == {"SUCCESS"}


def test_run_for_a_launcher_that_is_not_there_says_so(compose: Compose) -> None:
    run_id = compose.launch({LAUNCHER_TAG: "kubernetes"})
    assert compose.wait(run_id) == "FAILURE"
    said = "tag homelab/launcher: there is no launcher 'kubernetes' (there are: docker, local)"
    assert said in compose.reasons(run_id) and said in compose.alert(run_id)


def test_daemon_ticks_and_the_run_of_the_schedule_is_a_container(compose: Compose) -> None:
    inventory = compose.deployment.inventory
    sound = inventory.read_text()
    often = yaml.safe_load(sound)
    often["backups"]["schedule"] = "* * * * *"
    query = """{ runsOrError(filter: {tags: [{key: "dagster/schedule_name", value: "nightly_backup_schedule"}]}) {
        ... on Runs { results { runId pipelineName } } } }"""

    def started() -> list[dict[str, str]]:
        return list(graphql(compose.web, query)["runsOrError"]["results"])

    before = len(started())
    inventory.write_text(yaml.safe_dump(often))
    try:
        until(lambda: len(started()) > before, 150, compose.diagnostics)
    finally:
        inventory.write_text(sound)
    run = started()[0]
    assert run["pipelineName"] == JOB
    assert compose.wait(run["runId"]) == "SUCCESS", compose.diagnostics(run["runId"])
    assert len(containers(compose, run["runId"])) == 1
