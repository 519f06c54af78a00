"""deploy/kubernetes on the tests' cluster: its overlay with PostgreSQL inside, and a house that it backs up.

Beside the manifests as they are shipped stands one overlay of the tests', for what this cluster lacks: pods use the
host's network and find each other by hostAliases, volumes are folders of the machine, and Dagster looks more often for
runs that died. What the manifests say of users, privileges, probes, volumes and rights is as shipped.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from homelab_pipelines.docker_deployment import USER_ID
from homelab_pipelines.local_deployment import (
    LOCATION,
    Deployment,
    DeploymentFailed,
    graphql,
    is_loaded,
    run_state,
)
from tests.cluster.conftest import MANIFESTS, NAMESPACE, THERE
from tests.deployed import JOB, Deployed, until
from tests.integration.house import House, fill, merged
from tests.peers.docker import IMAGE as POSTGRES
from tests.peers.kubernetes.cluster import Cluster
from tests.peers.ports import free_port
from tests.peers.postgres import PostgresPeer, server_of
from tests.peers.receiver import HttpReceiver, http_receiver

POSTGRES_USER_ID = 999
SERVICES = ("code", "webserver", "daemon")
READY_SECONDS = 240


@dataclass
class OnCluster(Deployed):
    """The deployment in its namespace. `folder` is the tests' overlay, `backups` the folder of all targets."""

    cluster: Cluster
    house: House
    folder: Path
    port: int
    backups: Path
    receiver: HttpReceiver
    secrets: dict[str, str] = field(repr=False, default_factory=dict)

    @property
    def web(self) -> Deployment:
        return Deployment(self.house.inventory, self.house.home, self.port)

    @property
    def peer(self) -> PostgresPeer:
        """The server that is backed up."""
        return self.house.peer

    def kubectl(self, *words: str, stdin: str = "", seconds: float = 60) -> str:
        """kubectl in the deployment's namespace."""
        return self.cluster.kubectl(THERE, *words, stdin=stdin, seconds=seconds)

    def get(self, *words: str) -> dict[str, Any]:
        """Objects of the deployment's namespace."""
        return self.cluster.get(THERE, *words)

    def pods_of(self, run_id: str) -> list[dict[str, Any]]:
        """The pods of a run, whatever became of them."""
        found: list[dict[str, Any]] = self.get("pods", f"--selector=dagster/run-id={run_id}")["items"]
        return found

    def running_pod(self, run_id: str, seconds: float = 90) -> dict[str, Any]:
        """The pod of a run, once it runs."""

        def running() -> list[dict[str, Any]]:
            return [pod for pod in self.pods_of(run_id) if pod["status"]["phase"] == "Running"]

        found: list[dict[str, Any]] = until(running, seconds, lambda: self.diagnostics(run_id))
        return found[0]

    def active_pods(self) -> list[str]:
        """The names of all pods of runs that have not ended."""
        pods = self.get("pods", "--selector=homelab/role=run")["items"]
        return [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]

    def write_inventory(self, changes: dict[str, Any]) -> None:
        """Change homelab.yaml, as a person does with `kubectl apply`; pods see it within about a minute."""
        self.house.write(merged(self.house.changes, changes))
        words = ("create", "configmap", "homelab-inventory", f"--from-file={self.house.inventory}")
        self.kubectl("replace", "--filename=-", stdin=self.kubectl(*words, "--dry-run=client", "--output=yaml"))

    def schedule(self) -> str:
        """When the nightly job runs, as the code location has it now."""
        query = """query ($selector: ScheduleSelector!) { scheduleOrError(scheduleSelector: $selector) {
            ... on Schedule { cronSchedule } } }"""
        selector = {"repositoryLocationName": LOCATION, "repositoryName": "__repository__"}
        asked = {"selector": {**selector, "scheduleName": f"{JOB}_schedule"}}
        return str(graphql(self.web, query, asked)["scheduleOrError"].get("cronSchedule"))

    def wait_ready(self) -> None:
        """Wait until the parts of the deployment are rolled out and the code location is loaded."""
        for kind in ("statefulset/homelab-postgres", *(f"deployment/homelab-{name}" for name in SERVICES)):
            words = ("rollout", "status", kind, f"--timeout={READY_SECONDS}s")
            done = self.cluster.try_kubectl(THERE, *words, seconds=READY_SECONDS + 30)
            assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.diagnostics()}"
        until(self._loaded, 60, self.diagnostics)

    def _loaded(self) -> bool:
        try:
            return is_loaded(self.web)
        except DeploymentFailed:
            return False

    def diagnostics(self, run_id: str | None = None) -> str:
        parts = [self.cluster.try_kubectl(THERE, "get", "pods,jobs,pvc", "--output=wide").stdout]
        parts.append(self.cluster.try_kubectl(THERE, "events").stdout[-3000:])
        for name in (*SERVICES, "postgres"):
            kind = "statefulset" if name == "postgres" else "deployment"
            log = self.cluster.try_kubectl(THERE, "logs", f"{kind}/homelab-{name}", "--tail=25")
            parts.append(f"--- {name}\n{log.stdout[-2500:]}{log.stderr[-500:]}")
        if run_id:
            try:
                parts += [str(run_state(self.web, run_id)), self.reasons(run_id)]
            except OSError as error:
                parts.append(f"the webserver does not answer: {error}")
            log = self.cluster.try_kubectl(THERE, "logs", f"--selector=dagster/run-id={run_id}", "--tail=40")
            parts.append(f"--- run {run_id}\n{log.stdout[-4000:]}")
        return "\n".join(parts)


def write_overlay(folder: Path, literals: Mapping[str, str], aliases: list[str], port: int, state: Path) -> Path:
    """Copy the manifests and put the tests' overlay beside those that are shipped; its folder."""
    shutil.copytree(MANIFESTS, folder)
    settings = yaml.safe_load((folder / "base/dagster.yaml").read_text())
    settings["run_monitoring"] |= {
        "poll_interval_seconds": 2,
        "free_slots_after_run_end_seconds": 1,
        "start_timeout_seconds": 150,
    }
    network = {"hostNetwork": True, "hostAliases": [{"ip": "127.0.0.1", "hostnames": aliases}]}
    launcher = settings["run_launcher"]["config"]["launchers"]["kubernetes"]["config"]
    launcher["run_k8s_config"]["pod_spec_config"] |= network
    launcher["image_pull_policy"] = "Never"  # nothing can be pulled here
    for toleration in launcher["run_k8s_config"]["pod_spec_config"]["tolerations"]:
        toleration["tolerationSeconds"] = 10
    (folder / "base/dagster.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    overlay = folder / "overlays/test"
    overlay.mkdir()
    levels = {f"pod-security.kubernetes.io/{each}": "privileged" for each in ("enforce", "audit", "warn")}
    container = "/spec/template/spec/containers/0"
    patches = [
        _merge("Namespace", {"metadata": {"name": "any", "labels": levels}}),
        *(_merge(kind, {"spec": {"template": {"spec": network}}}) for kind in ("Deployment", "StatefulSet")),
        _replace("homelab-webserver", f"{container}/args/4", str(port)),
        _replace("homelab-webserver", f"{container}/ports/0/containerPort", port),
        _replace("homelab-code", f"{container}/args/4", str(port)),
        # The tests' PostgreSQL keeps its data in /data.
        _replace("homelab-postgres", f"{container}/volumeMounts/0/mountPath", "/data"),
    ]
    name, _, tag = POSTGRES.rpartition(":")
    generated = {"name": "homelab-environment", "behavior": "merge", "options": {"disableNameSuffixHash": True}}
    kustomization = {
        "namespace": NAMESPACE,
        "resources": ["../postgres-in-cluster", "volumes.yaml"],
        "images": [{"name": "postgres", "newName": name, "newTag": tag}],
        "configMapGenerator": [{**generated, "literals": [f"{key}={value}" for key, value in literals.items()]}],
        "patches": patches,
    }
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    claims = {"homelab-state": USER_ID, "homelab-backups": USER_ID, "data-homelab-postgres-0": POSTGRES_USER_ID}
    (overlay / "volumes.yaml").write_text(yaml.safe_dump_all(volume(state, *each) for each in claims.items()))
    return overlay


def _merge(kind: str, change: dict[str, Any]) -> dict[str, Any]:
    """A patch of every object of a kind."""
    named = {"kind": kind, "metadata": {"name": "any"}, **change}
    return {"target": {"kind": kind}, "patch": json.dumps(named)}


def _replace(name: str, path: str, value: object) -> dict[str, Any]:
    """A patch of one value of the workload with this name."""
    change = [{"op": "replace", "path": path, "value": value}]
    return {"target": {"group": "apps", "name": name}, "patch": json.dumps(change)}


def volume(state: Path, claim: str, owner: int) -> dict[str, Any]:
    """A folder of the machine as the volume of one claim, where K3s would make one by itself."""
    path = state / claim
    path.mkdir()
    os.chown(path, owner, owner)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": claim},
        "spec": {
            "capacity": {"storage": "5Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": NAMESPACE, "name": claim},
            "hostPath": {"path": str(path)},
        },
    }


@pytest.fixture(scope="package")
def deployed(kubernetes: Cluster, imported_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnCluster]:
    """The deployment with a house whose one database has 1000 rows, on two targets; alerts go to a receiver."""
    folder = tmp_path_factory.mktemp("kubernetes")
    state = folder / "volumes"
    state.mkdir()
    peer = server_of(18)  # the image has a server of 18 to prove backups with
    peer.create_database("photos")
    fill(peer, "photos")
    targets = {name: {"directory": f"/backups/{name}"} for name in ("nas", "usb")}
    house = House(
        folder / "house",
        peer,
        ["photos"],
        {
            "backups": {"targets": targets},
            "alerts": {"to": [{"file": "secrets/alerts"}]},
            # Faults are made while a backup waits for a table that the test holds.
            "databases": {"main": {"lock_wait": "15m"}},
        },
    )
    port, storage_port, storage = free_port(), free_port(), "storage-" + os.urandom(12).hex()
    aliases = ["homelab-postgres", "homelab-code", "homelab-webserver"]
    overlay = write_overlay(folder / "manifests", {"DAGSTER_PG_PORT": str(storage_port)}, aliases, port, state)
    for name in targets:
        (state / "homelab-backups" / name).mkdir()
        os.chown(state / "homelab-backups" / name, USER_ID, USER_ID)
    with ExitStack() as stack:
        receiver = stack.enter_context(http_receiver())
        house.write_secret("alerts", receiver.alert_address)
        up = OnCluster(kubernetes, house, overlay, port, state / "homelab-backups", receiver)
        up.secrets = {
            "source": peer.password,
            "age": house.identity,
            "storage": storage,
            "alerts": receiver.alert_address.rpartition("/")[2],
        }
        stack.callback(remove, up)
        kubernetes.kubectl("create", "namespace", NAMESPACE)
        create_secrets(up, storage)
        kubernetes.kubectl("apply", f"--kustomize={overlay}")
        up.wait_ready()
        yield up
    peer.drop_database("photos")


def create_secrets(up: OnCluster, storage: str) -> None:
    """What a person makes before the first `kubectl apply`."""
    files = [f"--from-file={path}" for path in sorted((up.house.folder / "secrets").iterdir())]
    up.kubectl("create", "secret", "generic", "homelab-secrets", *files)
    password = up.house.folder / "storage-password"
    password.write_text(storage)
    up.kubectl("create", "secret", "generic", "homelab-storage", f"--from-file=postgresql-password={password}")
    up.kubectl("create", "configmap", "homelab-inventory", f"--from-file={up.house.inventory}")


def remove(up: OnCluster) -> None:
    """Delete the namespace, and wait until its pods are gone."""
    up.cluster.try_kubectl("delete", "namespace", NAMESPACE, "--timeout=90s", seconds=120)
    up.cluster.try_kubectl("delete", "pv", "--all", "--wait=false")
