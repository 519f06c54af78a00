"""One Dagster with all three launchers, as `homelab up` is with a dagster.yaml of one's own: the same job runs as a
process of this machine, in a container and in a pod, without a change, against one PostgreSQL and the same targets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import yaml

from homelab_pipelines.backup.records import list_store
from homelab_pipelines.docker_deployment import USER_ID
from homelab_pipelines.launchers import LAUNCHER_TAG
from homelab_pipelines.local_deployment import Deployment, run_state, running
from tests.deployed import Deployed
from tests.integration.docker.conftest import remove_runs
from tests.integration.house import REPOSITORY, House, fill
from tests.peers.docker import DockerPeer
from tests.peers.kubernetes.cluster import Cluster
from tests.peers.ports import free_port
from tests.peers.postgres import server_of

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.postgres]
NAMESPACE = "three-launchers"
STORAGE = "dagster_of_three"
# What every worker is given from the environment of Dagster's own processes.
HANDED_ON = ("HOMELAB_INVENTORY", "HOMELAB_HOME", "DAGSTER_PG_PASSWORD")


@dataclass
class Three(Deployed):
    """Dagster as processes of this machine; its runs are processes, containers and pods."""

    house: House
    deployment: Deployment
    engine: DockerPeer
    cluster: Cluster

    @property
    def web(self) -> Deployment:
        return self.deployment

    def diagnostics(self, run_id: str | None = None) -> str:
        parts = [str(run_state(self.web, run_id)), self.reasons(run_id)] if run_id else []
        daemon = self.deployment.home / "logs/daemon.log"
        return "\n".join([*parts, daemon.read_text(errors="replace")[-3000:], self.cluster.diagnostics()[:4000]])

    def containers(self, run_id: str) -> list[str]:
        return self.engine.docker("ps", "--all", "--quiet", "--filter", f"label=dagster/run_id={run_id}").split()

    def pods(self, run_id: str) -> list[str]:
        words = (f"--namespace={NAMESPACE}", "pods", f"--selector=dagster/run-id={run_id}")
        return [pod["metadata"]["name"] for pod in self.cluster.get(*words)["items"]]

    def verified(self) -> set[tuple[str, str, str]]:
        """Target, source and id of every backup that was restored and found equal."""
        configured = self.house.configured()
        return {
            (name, record.manifest.source, record.manifest.id)
            for name in ("nas", "usb")
            for record in list_store(configured.store(name)).backups
            if record.status == "verified"
        }


def settings(three: House, engine_image: str, cluster: Cluster, storage: dict[str, object]) -> dict[str, object]:
    """deploy/local/dagster.yaml with storage in PostgreSQL, which every worker reaches, and three launchers."""
    chosen = yaml.safe_load((REPOSITORY / "deploy/local/dagster.yaml").read_text())
    chosen["run_monitoring"]["poll_interval_seconds"] = 2
    chosen["storage"] = {"postgres": {"postgres_db": storage}}
    docker = {
        "image": engine_image,
        "network": "host",
        "env_vars": list(HANDED_ON),
        "container_kwargs": {"auto_remove": False, "volumes": [f"{three.folder}:{three.folder}"]},
    }
    kubernetes = {
        "load_incluster_config": False,
        "kubeconfig_file": str(cluster.kubeconfig),
        "job_namespace": NAMESPACE,
        "service_account_name": "default",
        "instance_config_map": "homelab-dagster",
        "dagster_home": "/opt/dagster",
        "job_image": engine_image,
        "image_pull_policy": "Never",
        "env_vars": list(HANDED_ON),
        "volumes": [{"name": "house", "hostPath": {"path": str(three.folder)}}],
        "volume_mounts": [{"name": "house", "mountPath": str(three.folder)}],
        "run_k8s_config": {"pod_spec_config": {"host_network": True, "automount_service_account_token": False}},
    }
    launchers = {
        "local": {"module": "dagster", "class": "DefaultRunLauncher"},
        "docker": {
            "module": "homelab_pipelines.docker_launcher",
            "class": "ContainerRunLauncher",
            "config": docker,
        },
        "kubernetes": {
            "module": "homelab_pipelines.kubernetes_launcher",
            "class": "KubernetesRunLauncher",
            "config": kubernetes,
            "cluster": "home",
        },
    }
    chosen["run_launcher"] = {
        "module": "homelab_pipelines.launchers",
        "class": "RoutingRunLauncher",
        "config": {"default": "local", "launchers": launchers},
    }
    return dict(chosen)


@pytest.fixture(scope="module")
def three(
    kubernetes: Cluster, docker_engine: DockerPeer, imported_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Three]:
    peer = server_of(18)  # the image has a server of 18 to prove backups with
    with ExitStack() as stack:
        for name in ("letters", STORAGE):
            peer.create_database(name)
            stack.callback(peer.drop_database, name)
        fill(peer, "letters")
        house = House(tmp_path_factory.mktemp("three") / "house", peer, ["letters"])
        deployment = Deployment(house.inventory, house.home, free_port())
        deployment.dagster_home.mkdir(parents=True)
        storage = {
            "scheme": "postgresql+psycopg2",
            "hostname": peer.host,
            "port": peer.port,
            "db_name": STORAGE,
            "username": peer.user,
            "password": {"env": "DAGSTER_PG_PASSWORD"},
        }
        chosen = settings(house, imported_image, kubernetes, storage)
        (deployment.dagster_home / "dagster.yaml").write_text(json.dumps(chosen))  # JSON is YAML
        for path in (house.folder, *house.folder.rglob("*")):
            os.chown(path, USER_ID, USER_ID)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("DAGSTER_PG_PASSWORD", peer.password)
        patch.setenv("HOMELAB_INVENTORY", str(house.inventory))
        patch.setenv("HOMELAB_HOME", str(house.home))
        patch.setenv("DOCKER_HOST", docker_engine.host)
        kubernetes.kubectl("create", "namespace", NAMESPACE)
        stack.callback(kubernetes.kubectl, "delete", "namespace", NAMESPACE, "--wait=false")
        stack.callback(remove_runs, docker_engine)
        stack.enter_context(running(deployment))
        yield Three(house, deployment, docker_engine, kubernetes)


def test_nightly_backup_runs_unchanged_as_a_container_a_pod_and_a_process(three: Three) -> None:
    steps = {}
    # The process last: here it is root's, and what it writes the others may not read.
    for launcher, workers in (("docker", (1, 0)), ("kubernetes", (0, 1)), ("local", (0, 0))):
        before = three.verified()
        run_id = three.launch({LAUNCHER_TAG: launcher})
        assert three.wait(run_id) == "SUCCESS", three.diagnostics(run_id)
        assert f"Sent to launcher {launcher} (tag {LAUNCHER_TAG})" in three.reasons(run_id)
        assert (len(three.containers(run_id)), len(three.pods(run_id))) == workers
        new = {(target, source) for target, source, _ in three.verified() - before}
        assert new == {(target, f"main/{name}") for target in ("nas", "usb") for name in ("letters", "@globals")}
        steps[launcher] = run_state(three.web, run_id).steps
    assert steps["docker"] == steps["kubernetes"] == steps["local"]
    assert set(steps["local"].values()) == {"SUCCESS"}
