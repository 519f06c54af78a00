"""The largest of what assets ask for, and how Docker and Kubernetes are told: judged by dagster_k8s's own Job."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.test_utils import in_process_test_workspace
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster_k8s.client import DagsterKubernetesClient
from dagster_k8s.launcher import K8sRunLauncher
from docker.utils import parse_bytes
from kubernetes.utils import parse_quantity

from homelab_pipelines.inventory.model import Homelab
from homelab_pipelines.inventory.resources import RunResources
from homelab_pipelines.launchers import CannotLaunch, RoutingRunLauncher
from homelab_pipelines.run_resources import Contradiction, Resources, docker_limits, kubernetes_config, largest

GIB = 1024**3
INVENTORY = {
    "homelab": "home",
    "databases": {
        "main": {
            "kind": "postgres",
            "at": {"host": "127.0.0.1"},
            "include": ["photos"],
            "resources": {"memory": "8GiB", "node_selector": {"disk": "ssd"}},
        },
        "spare": {"kind": "postgres", "at": {"host": "127.0.0.1"}, "include": ["files"]},
    },
    "backups": {
        "targets": {"nas": {"directory": "nas"}},
        "resources": {"cpu": 2, "memory": "1GiB", "tolerations": [{"key": "storage", "effect": "NoSchedule"}]},
    },
}
TOLERATION = {"key": "storage", "operator": "Exists", "effect": "NoSchedule"}


def test_largest_of_each_is_taken_and_tolerations_are_joined() -> None:
    asked = {
        "a": Resources(cpu=2, memory=GIB, tolerations=({"key": "x"},)),
        "b": Resources(memory=4 * GIB, node_selector={"disk": "ssd"}, tolerations=({"key": "x"}, {"key": "y"})),
        "c": Resources(node_selector={"disk": "ssd", "arch": "arm64"}),
    }
    assert largest(asked) == Resources(2, 4 * GIB, {"disk": "ssd", "arch": "arm64"}, ({"key": "x"}, {"key": "y"}))
    assert str(largest(asked)) == (
        "2 cores, 4.3 GB of memory, a node with arch=arm64, a node with disk=ssd, tolerance of x, tolerance of y"
    )
    assert largest({}).to_json() == {} and str(largest({})) == ""
    assert Resources.from_json(json.loads(json.dumps(largest(asked).to_json()))) == largest(asked)


def test_nodes_that_no_machine_can_be_at_once_are_a_contradiction() -> None:
    with pytest.raises(Contradiction, match="a asks for a node with disk=ssd, and b for one with disk=hdd"):
        largest({"a": Resources(node_selector={"disk": "ssd"}), "b": Resources(node_selector={"disk": "hdd"})})


@pytest.mark.parametrize(
    ("asked", "defaults", "limits"),
    [
        (Resources(0.5, 4 * GIB), {"mem_limit": "2g"}, {"mem_limit": 4 * GIB, "nano_cpus": 500_000_000}),
        (Resources(memory=GIB), {"mem_limit": "2g"}, {"mem_limit": 2 * GIB}),
        (Resources(memory=GIB), {}, {"mem_limit": GIB}),
        (Resources(cpu=1), {"nano_cpus": 3_000_000_000}, {"nano_cpus": 3_000_000_000}),
        (Resources(node_selector={"disk": "ssd"}), {"mem_limit": "2g"}, {}),
    ],
)
def test_docker_limits_are_never_below_the_launchers_own(
    asked: Resources, defaults: dict[str, Any], limits: dict[str, Any]
) -> None:
    assert docker_limits(asked, defaults, parse_bytes) == limits


@pytest.mark.parametrize(
    ("asked", "resources"),
    [
        (Resources(cpu=2), {"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}),
        (Resources(cpu=0.05), {"limits": {"cpu": "0.1"}}),
        (Resources(memory=GIB), {"requests": {"memory": str(GIB)}}),
        (Resources(memory=4 * GIB), {"requests": {"memory": str(4 * GIB)}, "limits": {"memory": str(4 * GIB)}}),
        (Resources(memory=1), None),
    ],
)
def test_kubernetes_resources_are_what_is_more_than_the_launchers_own(
    asked: Resources, resources: dict[str, Any] | None
) -> None:
    defaults = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}
    expected = {"container_config": {"resources": resources}} if resources else {}
    assert kubernetes_config(asked, defaults, parse_quantity) == expected


def test_server_says_more_than_all_backups_do() -> None:
    homelab = Homelab.model_validate(INVENTORY)
    main, spare = (
        Resources.of(homelab.databases[name].resources.over(homelab.backups.resources)) for name in ("main", "spare")
    )
    assert (main.cpu, main.memory, main.node_selector, main.tolerations) == (2, 8 * GIB, {"disk": "ssd"}, (TOLERATION,))
    assert (spare.cpu, spare.memory, spare.node_selector) == (2, GIB, {})
    assert RunResources(memory=GIB).over(RunResources(memory=4 * GIB)).memory == GIB


class _Jobs:
    """Takes the Job that is made, in place of an API server."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def create_namespaced_job_with_retries(self, body: Any, namespace: str) -> None:
        self.made.append(body)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadableTargetOrigin:
    """The code location of the inventory above."""
    (tmp_path / "homelab.yaml").write_text(yaml.safe_dump(INVENTORY))
    monkeypatch.setenv("HOMELAB_INVENTORY", str(tmp_path / "homelab.yaml"))
    monkeypatch.setenv("HOMELAB_HOME", str(tmp_path / "state"))
    return LoadableTargetOrigin(executable_path=sys.executable, module_name="homelab_pipelines.definitions")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dg.DagsterInstance, _Jobs]]:
    """An instance whose runs go to a cluster that is not there, and what it would be asked for."""
    jobs = _Jobs()
    monkeypatch.setattr(DagsterKubernetesClient, "production_client", lambda *_, **__: jobs)
    server = {"cluster": {"server": "https://127.0.0.1:1"}, "name": "c"}
    context = {"context": {"cluster": "c", "user": "u"}, "name": "c"}
    kubeconfig = {
        "clusters": [server],
        "contexts": [context],
        "current-context": "c",
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    settings = {
        "job_image": "homelab",
        "service_account_name": "dagster",
        "instance_config_map": "dagster",
        "dagster_home": "/opt/dagster",
        "load_incluster_config": False,
        "kubeconfig_file": str(tmp_path / "kubeconfig"),
        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        "run_k8s_config": {"pod_spec_config": {"tolerations": [{"key": "gone", "operator": "Exists"}]}},
        "only_allow_user_defined_k8s_config_fields": {
            "container_config": {"resources": True},
            "pod_spec_config": {"node_selector": True, "tolerations": True},
        },
    }
    held = {"cluster": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": settings}}
    launcher = {
        "module": "homelab_pipelines.launchers",
        "class": "RoutingRunLauncher",
        "config": {"launchers": held, "default": "cluster"},
    }
    with dg.DagsterInstance.local_temp(overrides={"run_launcher": launcher}) as instance:
        yield instance, jobs


def launched(
    cluster: tuple[dg.DagsterInstance, _Jobs],
    code: LoadableTargetOrigin,
    tags: dict[str, str] | None = None,
    **run: Any,
) -> Any:
    """The Job of a run of the nightly job."""
    instance, jobs = cluster
    with in_process_test_workspace(instance, code) as workspace:
        location = workspace.code_locations[0]
        job = location.get_repository("__repository__").get_full_job("nightly_backup")
        made = dg.DagsterRun(
            job_name="nightly_backup",
            tags=tags or {},
            remote_job_origin=job.get_remote_origin(),
            job_code_origin=job.get_python_origin(),
            **run,
        )
        instance.add_run(made)
        launcher = instance.run_launcher
        assert isinstance(launcher, RoutingRunLauncher)
        launcher.launch_run(LaunchRunContext(made, workspace))
        assert isinstance(launcher._made["cluster"], K8sRunLauncher)
    stored = instance.get_run_by_id(made.run_id)
    assert stored is not None and not {"homelab/resources", "dagster-k8s/config"} & (set(stored.tags) - set(tags or {}))
    return jobs.made[-1].spec.template.spec, instance.all_logs(made.run_id)


def test_kubernetes_job_of_a_run_has_what_the_largest_of_its_assets_asks_for(
    cluster: tuple[dg.DagsterInstance, _Jobs], code: LoadableTargetOrigin
) -> None:
    pod, log = launched(cluster, code)
    resources = pod.containers[0].resources
    assert resources.requests == {"cpu": "2", "memory": str(8 * GIB)}
    assert resources.limits == {"cpu": "2", "memory": str(8 * GIB)}
    assert pod.node_selector == {"disk": "ssd"}
    tolerations = [(each.key, each.operator, each.effect) for each in pod.tolerations]
    assert tolerations == [("gone", "Exists", None), ("storage", "Exists", "NoSchedule")]
    said = [entry.dagster_event.message or "" for entry in log if entry.dagster_event is not None]
    assert any("its assets ask for 2 cores, 8.6 GB of memory" in each for each in said), said


def test_run_of_some_assets_has_what_these_ask_for(
    cluster: tuple[dg.DagsterInstance, _Jobs], code: LoadableTargetOrigin
) -> None:
    pod, _ = launched(cluster, code, asset_selection=frozenset([dg.AssetKey(["database_backup", "files"])]))
    resources = pod.containers[0].resources
    assert resources.requests == {"cpu": "2", "memory": str(GIB)}
    assert resources.limits == {"cpu": "2", "memory": "2Gi"}, "never below the launcher's own"
    assert not pod.node_selector


def test_persons_own_tag_stays(cluster: tuple[dg.DagsterInstance, _Jobs], code: LoadableTargetOrigin) -> None:
    own = json.dumps({"container_config": {"resources": {"limits": {"memory": "3Gi"}}}})
    pod, _ = launched(cluster, code, {"dagster-k8s/config": own})
    assert pod.containers[0].resources.limits == {"memory": "3Gi"}


def test_contradiction_ends_the_run_naming_both_assets(
    cluster: tuple[dg.DagsterInstance, _Jobs], code: LoadableTargetOrigin, tmp_path: Path
) -> None:
    text = (tmp_path / "homelab.yaml").read_text()
    spare = {"resources": {"node_selector": {"disk": "hdd"}}}
    inventory = yaml.safe_load(text)
    inventory["databases"]["spare"] |= spare
    (tmp_path / "homelab.yaml").write_text(yaml.safe_dump(inventory))
    with pytest.raises(CannotLaunch, match=r"asks for a node with disk=.*; next: give both the same") as caught:
        launched(cluster, code)
    assert "/photos" in str(caught.value) or "/main" in str(caught.value)


def test_definitions_load_without_clients_that_only_runs_and_daemons_need() -> None:
    """Each of these is a half to a whole second, and tens of megabytes of every code server."""
    heavy = ("sqlalchemy", "alembic", "kubernetes", "docker", "dagster_postgres", "dagster_k8s", "dagster_docker")
    code = f"import sys, homelab_pipelines.definitions\nprint([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
