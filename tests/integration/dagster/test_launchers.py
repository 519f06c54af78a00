"""Runs sent by the rules of dagster.yaml, in a deployment as `homelab up` starts it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import dagster as dg
import pytest
import yaml

from homelab_pipelines.launchers import CHANGES_CLUSTER_TAG, LAUNCHED_BY_TAG, LAUNCHER_TAG
from homelab_pipelines.local_deployment import Deployment, launch, run_state, running
from homelab_pipelines.schedules.alerts import broken_off
from tests.integration.house import REPOSITORY, House
from tests.peers.postgres import PostgresPeer
from tests.peers.s3 import free_port

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def routed(
    tmp_path_factory: pytest.TempPathFactory, peer: PostgresPeer
) -> Iterator[tuple[Deployment, dg.DagsterInstance]]:
    """Runs with an asset of the kind postgres go to local processes, all others to a Docker that is not there."""
    house = House(
        tmp_path_factory.mktemp("routed") / "house", peer, ["postgres"], {"backups": {"targets": {"usb": None}}}
    )
    deployment = Deployment(house.inventory, house.home, free_port())
    settings = yaml.safe_load((REPOSITORY / "deploy/local/dagster.yaml").read_text())
    settings["run_retries"] = {"enabled": False}
    settings["run_launcher"] = {
        "module": "homelab_pipelines.launchers",
        "class": "RoutingRunLauncher",
        "config": {
            "launchers": {
                "local": {"module": "dagster", "class": "DefaultRunLauncher"},
                "docker": {"module": "dagster_docker", "class": "DockerRunLauncher"},
                "inside": {"module": "dagster", "class": "DefaultRunLauncher", "cluster": "home"},
            },
            "default": "docker",
            "rules": [{"launcher": "local", "asset_kind": "postgres"}],
        },
    }
    deployment.dagster_home.mkdir(parents=True)
    (deployment.dagster_home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with running(deployment), house.instance() as instance:
        yield deployment, instance


def ended(routed: tuple[Deployment, dg.DagsterInstance], tags: dict[str, str]) -> tuple[str, dict[str, str], str]:
    """How a run with these tags ends: status, tags then, and what was said of it."""
    deployment, instance = routed
    run_id = launch(deployment, "nightly_backup", tags)
    deadline = time.monotonic() + 90
    while not run_state(deployment, run_id).ended:
        assert time.monotonic() < deadline, f"run {run_id} does not end"
        time.sleep(0.2)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    said = "\n".join(
        entry.user_message or (entry.dagster_event or entry).message or "" for entry in instance.all_logs(run_id)
    )
    return run.status.value, dict(run.tags), said + "\n" + broken_off(instance, run_id)


def test_run_with_an_asset_of_a_kind_goes_where_its_rule_says(routed: tuple[Deployment, dg.DagsterInstance]) -> None:
    status, tags, said = ended(routed, {})
    assert (status, tags[LAUNCHED_BY_TAG]) == ("SUCCESS", "local"), said
    assert "Sent to launcher local (rule asset_kind postgres)." in said


def test_run_for_an_absent_backend_fails_and_says_so_at_the_run(routed: tuple[Deployment, dg.DagsterInstance]) -> None:
    status, tags, said = ended(routed, {LAUNCHER_TAG: "docker"})
    assert (status, tags[LAUNCHED_BY_TAG]) == ("FAILURE", "docker")
    assert "Not launched: No docker image specified" in said
    assert "No docker image specified" in said.splitlines()[-1], "what an alert says of it"


def test_run_that_changes_the_cluster_it_would_run_in_is_refused(routed: tuple[Deployment, dg.DagsterInstance]) -> None:
    status, _, said = ended(routed, {LAUNCHER_TAG: "inside", CHANGES_CLUSTER_TAG: "home"})
    assert status == "FAILURE"
    assert "changes cluster home, and launcher inside would run it in a pod there" in said
    assert "next: add the tag homelab/launcher: docker" in said
