"""Finished jobs of runs on a real cluster: which go, with their pods, and what is said when they may not be listed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from homelab_pipelines.housekeeping.errors import HousekeepingError
from homelab_pipelines.housekeeping.kubernetes_workers import KubernetesWorkers
from homelab_pipelines.housekeeping.run_workers import reap
from tests.cluster.test_cluster_peer import job, pod_spec
from tests.peers.kubernetes.cluster import Cluster
from tests.peers.kubernetes.processes import wait_until

pytestmark = pytest.mark.kubernetes
# What the instance says of each run: ended, goes on, or nothing.
RUNS = {"ended": True, "goes-on": False}


def make(cluster: Cluster, namespace: str, name: str, labels: dict[str, str], command: str = "true") -> None:
    manifest = json.loads(job(name, namespace, pod_spec(command)))
    manifest["metadata"]["labels"] = labels
    cluster.apply(json.dumps(manifest))


def names(cluster: Cluster, kind: str, namespace: str) -> set[str]:
    return {each["metadata"]["name"] for each in cluster.get(kind, f"--namespace={namespace}")["items"]}


def test_only_finished_jobs_of_ended_runs_of_this_deployment_go(kubernetes: Cluster, namespace: str) -> None:
    def labels(run_id: str, deployment: str = "homelab") -> dict[str, str]:
        return {"dagster/run-id": run_id, "homelab/deployment": deployment}

    make(kubernetes, namespace, "finished", labels("ended"))
    make(kubernetes, namespace, "failed-of-no-run", labels("forgotten"), "exit 3")
    make(kubernetes, namespace, "finished-of-a-run-that-goes-on", labels("goes-on"))
    make(kubernetes, namespace, "of-another-deployment", labels("ended", "another"))
    make(kubernetes, namespace, "no-run", {"homelab/deployment": "homelab"})
    make(kubernetes, namespace, "still-running", labels("ended"), "sleep 600")
    for name in ("finished", "finished-of-a-run-that-goes-on", "of-another-deployment", "no-run"):
        kubernetes.wait_for("condition=Complete", f"job/{name}", f"--namespace={namespace}")
    kubernetes.wait_for("condition=Failed", "job/failed-of-no-run", f"--namespace={namespace}")

    workers = KubernetesWorkers("homelab", namespace, in_cluster=False, kubeconfig=str(kubernetes.kubeconfig))
    now = datetime.now(UTC) + timedelta(seconds=5)
    young = reap([workers], RUNS.get, timedelta(hours=1), now)
    assert young.removed == [] and len(young.left) == 4
    done = reap([workers], RUNS.get, timedelta(0), now)
    assert {each.name for each in done.removed} == {"finished", "failed-of-no-run"}
    assert {each.name: why for each, why in done.left} == {
        "finished-of-a-run-that-goes-on": "its run has not ended",
        "still-running": "it is running",
    }
    kept = {"finished-of-a-run-that-goes-on", "still-running", "of-another-deployment", "no-run"}
    wait_until("the jobs are gone", lambda: names(kubernetes, "jobs", namespace) == kept, 30, kubernetes.diagnostics)
    wait_until(
        "their pods are gone, too",
        lambda: {name.rpartition("-")[0] for name in names(kubernetes, "pods", namespace)} == kept,
        30,
        kubernetes.diagnostics,
    )
    workers.remove(done.removed[0])  # one that is gone already is no error


def test_account_that_may_not_list_jobs_is_told_what_it_needs(kubernetes: Cluster, namespace: str) -> None:
    kubeconfig = str(kubernetes.kubeconfig_of(namespace, "default"))
    workers = KubernetesWorkers("homelab", namespace, in_cluster=False, kubeconfig=kubeconfig)
    with pytest.raises(HousekeepingError) as caught:
        workers.workers()
    assert "the API server answers 403 Forbidden" in str(caught.value)
    assert "a Role with list and delete on jobs" in str(caught.value)
    assert "ttl_seconds_after_finished" in str(caught.value)
