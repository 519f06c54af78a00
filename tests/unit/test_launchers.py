"""Where a run is sent, decided without any backend: tags before rules, rules in order, then the default."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.launcher.base import LaunchRunContext, WorkerStatus
from dagster._core.test_utils import create_run_for_test

from homelab_pipelines.launchers import (
    CHANGES_CLUSTER_TAG,
    HOST_TAG,
    LAUNCHED_BY_TAG,
    LAUNCHER_TAG,
    CannotLaunch,
    RoutingRunLauncher,
)

LOCAL = {"module": "dagster", "class": "DefaultRunLauncher"}
# Real launchers whose backends are not there.
DOCKER = {"module": "dagster_docker", "class": "DockerRunLauncher", "config": {"image": "homelab"}}
KUBERNETES = {
    "module": "dagster_k8s",
    "class": "K8sRunLauncher",
    "config": {
        "service_account_name": "dagster",
        "instance_config_map": "dagster",
        "dagster_home": "/tmp",
        "job_image": "homelab",
        "load_incluster_config": True,
    },
    "cluster": "home",
}
LAUNCHERS = {"local": LOCAL, "docker": DOCKER, "kubernetes": KUBERNETES}


def instance_with(**config: object) -> dg.DagsterInstance:
    settings = {"launchers": LAUNCHERS, "default": "local", **config}
    launcher = {"module": "homelab_pipelines.launchers", "class": "RoutingRunLauncher", "config": settings}
    return dg.DagsterInstance.local_temp(overrides={"run_launcher": launcher})


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    rules = [
        {"launcher": "kubernetes", "job": "move_data", "host": "pi4"},
        {"launcher": "docker", "job": "move_data"},
        {"launcher": "kubernetes", "host": "nas"},
    ]
    with instance_with(rules=rules) as instance:
        yield instance


def launcher_of(instance: dg.DagsterInstance) -> RoutingRunLauncher:
    launcher = instance.run_launcher
    assert isinstance(launcher, RoutingRunLauncher)
    return launcher


@pytest.mark.parametrize(
    ("job", "tags", "chosen", "why"),
    [
        ("nightly_backup", {}, "local", "the default"),
        ("move_data", {}, "docker", "rule job move_data"),
        ("move_data", {HOST_TAG: "pi4"}, "kubernetes", "rule job move_data, host pi4"),
        ("nightly_backup", {HOST_TAG: "nas"}, "kubernetes", "rule host nas"),
        ("nightly_backup", {HOST_TAG: "pi4"}, "local", "the default"),
        ("move_data", {LAUNCHER_TAG: "local", HOST_TAG: "pi4"}, "local", "tag homelab/launcher"),
    ],
)
def test_choose_tag_before_rules_before_default(
    instance: dg.DagsterInstance, job: str, tags: dict[str, str], chosen: str, why: str
) -> None:
    run = create_run_for_test(instance, job, tags=tags)
    assert launcher_of(instance)._choose(run, None) == (chosen, why)


def launch(instance: dg.DagsterInstance, tags: dict[str, str]) -> dg.DagsterRun:
    run = create_run_for_test(instance, "upgrade", tags=tags)
    launcher_of(instance).launch_run(LaunchRunContext(run, None))
    return run


def test_launch_unknown_launcher_is_named_with_the_nearest(instance: dg.DagsterInstance) -> None:
    with pytest.raises(
        CannotLaunch, match=r"no launcher 'dokcer' \(there are: docker, kubernetes, local\).*'docker'\?"
    ):
        launch(instance, {LAUNCHER_TAG: "dokcer"})


@pytest.mark.parametrize("config", [{"default": "dockre"}, {"rules": [{"launcher": "dockre", "job": "a"}]}])
def test_settings_that_name_no_launcher_are_refused_at_once(config: dict[str, object]) -> None:
    with instance_with(**config) as instance, pytest.raises(CannotLaunch, match="did you mean 'docker'"):
        assert instance.run_launcher


def test_launch_absent_backend_says_so_and_nothing_is_guessed(instance: dg.DagsterInstance) -> None:
    run = create_run_for_test(instance, "upgrade", tags={LAUNCHER_TAG: "kubernetes"})
    with pytest.raises(CannotLaunch) as caught:
        launcher_of(instance).launch_run(LaunchRunContext(run, None))
    why = str(caught.value)
    assert "launcher kubernetes (dagster_k8s.K8sRunLauncher) cannot be set up here: ConfigException" in why
    assert "next: mend run_launcher.launchers.kubernetes in dagster.yaml" in why
    again = instance.get_run_by_id(run.run_id)
    assert again is not None and LAUNCHED_BY_TAG not in again.tags


def test_launch_change_of_a_cluster_from_its_own_pod_is_refused(instance: dg.DagsterInstance) -> None:
    tags = {LAUNCHER_TAG: "kubernetes", CHANGES_CLUSTER_TAG: "home"}
    with pytest.raises(CannotLaunch, match=r"changes cluster home.*a pod there.*add the tag homelab/launcher: local"):
        launch(instance, tags)
    with pytest.raises(CannotLaunch, match="cannot be set up here"):  # another cluster's change is not its business
        launch(instance, tags | {CHANGES_CLUSTER_TAG: "cabin"})


def test_launch_change_of_a_cluster_where_everything_runs_in_it_says_where_to_go() -> None:
    inside = {name: settings | {"cluster": "home"} for name, settings in LAUNCHERS.items()}
    with (
        instance_with(launchers=inside) as instance,
        pytest.raises(CannotLaunch, match="on another machine: homelab up"),
    ):
        launch(instance, {CHANGES_CLUSTER_TAG: "home"})


def test_health_of_an_unreachable_backend_is_no_answer(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    tags = {LAUNCHED_BY_TAG: "docker", "docker/container_id": "c0ffee"}
    run = create_run_for_test(instance, "nightly_backup", tags=tags)
    with pytest.raises(Exception, match="Connection refused"):
        launcher_of(instance).check_run_worker_health(run)


def test_health_is_asked_of_the_launcher_that_has_the_run(instance: dg.DagsterInstance) -> None:
    # By the rules it would be Docker's; by its tag it is a process of a code server, which looks after its own.
    run = create_run_for_test(instance, "move_data", tags={LAUNCHED_BY_TAG: "local"})
    health = launcher_of(instance).check_run_worker_health(run)
    assert (health.status, health.msg) == (WorkerStatus.RUNNING, "launcher local cannot tell")
