"""What can go wrong with a run in a pod: it ends with a reason a person understands, gives its pool back, and leaves
nothing that runs; the next nightly run succeeds.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from homelab_pipelines.local_deployment import DeploymentFailed
from tests.cluster.conftest import THERE
from tests.cluster.deployment.conftest import READY_SECONDS, OnCluster
from tests.deployed import POOL, until
from tests.integration.house import locked_table
from tests.peers.kubernetes.cluster import FIRST_NODE
from tests.peers.kubernetes.node import Node

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.postgres]
SECOND = "node-2"
TOLD_TO_END = "Execution was interrupted unexpectedly"


@pytest.fixture(autouse=True)
def quiet(deployed: OnCluster) -> None:
    """What a test before left under way has ended."""
    nothing_left(deployed)


@contextmanager
def waiting_run(deployed: OnCluster, tags: dict[str, str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """A run and its pod, in the middle of the dump of a table that somebody else holds until the block ends."""
    with locked_table(deployed.peer, "photos") as come:
        run_id = deployed.launch(tags)
        pod = deployed.running_pod(run_id)
        try:
            come()
        except AssertionError as error:
            raise AssertionError(f"{error}\n{deployed.diagnostics(run_id)}") from error
        assert deployed.claimed() == {run_id}
        yield run_id, pod


def ends(deployed: OnCluster, run_id: str, *reasons: str, seconds: float = 90) -> None:
    """The run fails with these reasons, an alert says them too, its pool is free, and no pod of it runs."""
    assert deployed.wait(run_id, seconds) == "FAILURE"
    until(lambda: run_id not in deployed.claimed(), 60, lambda: f"{POOL} is not given back")
    said = deployed.reasons(run_id)
    for reason in reasons:
        assert reason in said, said
    alert = until(lambda: deployed.receiver.alerts(run_id), 60, lambda: deployed.diagnostics(run_id))[0]
    assert any(reason in alert for reason in reasons), f"the alert: {alert}\nthe run's log: {said}"
    print(f"\n{alert}")


def goes_on(deployed: OnCluster, run_id: str) -> None:
    """The run is started again, and ends well; then nothing is left."""
    again = deployed.retry_of(run_id)
    assert deployed.wait(again, 180) == "SUCCESS", deployed.diagnostics(again)
    nothing_left(deployed)


def next_run_succeeds(deployed: OnCluster) -> None:
    run_id = deployed.launch()
    assert deployed.wait(run_id, 180) == "SUCCESS", deployed.diagnostics(run_id)
    nothing_left(deployed)


def nothing_left(deployed: OnCluster) -> None:
    """No run is under way, no pod of one, and none holds the server."""
    until(lambda: not deployed.unfinished(), 120, deployed.diagnostics)
    until(lambda: not deployed.active_pods(), 90, deployed.diagnostics)
    until(lambda: not deployed.claimed(), 60, deployed.diagnostics)


def process(deployed: OnCluster, word: str) -> psutil.Process:
    """The one process of the cluster that has a word in its command line; not those that it forked."""
    found = []
    for each in psutil.process_iter():
        try:
            ours = deployed.cluster.folder.name in Path(f"/proc/{each.pid}/cgroup").read_text()
            if ours and any(word in part for part in each.cmdline()) and "python" in each.exe():
                found.append(each)
        except (psutil.Error, OSError):
            continue
    [first] = [each for each in found if each.ppid() not in {other.pid for other in found}]
    return first


def kill(deployed: OnCluster, run_id: str, pod: dict[str, Any]) -> None:
    os.kill(process(deployed, run_id).pid, signal.SIGKILL)


def use_up_memory(deployed: OnCluster, run_id: str, pod: dict[str, Any]) -> None:
    """Fill what the pod may have with many small processes: the kernel ends its largest one, the run's."""
    script = (
        "import os, time\n"
        "for _ in range(60):\n"
        "    if os.fork() == 0:\n"
        "        held = bytearray(24 * 2**20)\n"
        "        time.sleep(60)\n"
        "time.sleep(60)\n"
    )
    deployed.cluster.try_kubectl(THERE, "exec", pod["metadata"]["name"], "--", "python", "-c", script, seconds=120)


def delete(deployed: OnCluster, run_id: str, pod: dict[str, Any]) -> None:
    deployed.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")


@pytest.mark.parametrize(
    ("fault", "memory", "reason"),
    [
        (kill, "2Gi", f"was killed (SIGKILL) on node {FIRST_NODE}"),
        (use_up_memory, "800Mi", "it needed more memory than its limit of 800Mi; next: raise resources.limits.memory"),
        (delete, "2Gi", TOLD_TO_END),
    ],
    ids=["killed", "out of memory", "deleted by hand"],
)
def test_lost_worker_fails_its_run_with_a_reason_and_is_started_again(
    deployed: OnCluster, fault: Callable[..., None], memory: str, reason: str
) -> None:
    limits = {"container_config": {"resources": {"limits": {"memory": memory}}}}
    with waiting_run(deployed, {"dagster-k8s/config": json.dumps(limits)}) as (run_id, pod):
        fault(deployed, run_id, pod)
        ends(deployed, run_id, reason)
    goes_on(deployed, run_id)


def test_job_deleted_by_hand_fails_its_run_saying_so(deployed: OnCluster) -> None:
    with waiting_run(deployed) as (run_id, _):
        deployed.kubectl("delete", "job", f"dagster-run-{run_id}", "--wait=false")
        ends(deployed, run_id, TOLD_TO_END)
    goes_on(deployed, run_id)


def test_image_missing_fails_the_run_naming_it_and_leaves_no_pod(deployed: OnCluster, imported_image: str) -> None:
    node, name = deployed.cluster.nodes[FIRST_NODE], f"docker.io/library/{imported_image}"
    node.ctr("images", "tag", name, "docker.io/library/aside:1")
    node.ctr("images", "rm", name)
    try:
        run_id = deployed.launch()
        ends(deployed, run_id, f"bring image {imported_image} to the node", seconds=210)
        until(lambda: not deployed.pods_of(run_id), 30, deployed.diagnostics)
    finally:
        node.ctr("images", "tag", "docker.io/library/aside:1", name)
        node.ctr("images", "rm", "docker.io/library/aside:1")
    goes_on(deployed, run_id)


def test_api_server_away_for_a_minute_ends_no_run(deployed: OnCluster) -> None:
    with waiting_run(deployed) as (run_id, _):
        deployed.cluster.stop_api_server()
        try:
            time.sleep(60)
            assert deployed.claimed() == {run_id}, "what cannot be asked about is not given up"
        finally:
            deployed.cluster.start_api_server()
    assert deployed.wait(run_id) == "SUCCESS", deployed.diagnostics(run_id)
    nothing_left(deployed)


def test_run_launched_while_the_api_server_is_away_starts_once_it_is_back(deployed: OnCluster) -> None:
    deployed.cluster.stop_api_server()
    try:
        run_id = deployed.launch()
        away = "The API server of the cluster does not answer; trying again"
        until(lambda: away in deployed.reasons(run_id), 90, lambda: deployed.reasons(run_id))
    finally:
        deployed.cluster.start_api_server()
    assert deployed.wait(run_id, 180) == "SUCCESS", deployed.diagnostics(run_id)
    nothing_left(deployed)


def test_storage_restarted_does_not_keep_the_next_run_from_succeeding(deployed: OnCluster) -> None:
    with waiting_run(deployed) as (run_id, _):
        deployed.kubectl("delete", "pod", "homelab-postgres-0", "--grace-period=2", seconds=120)
        deployed.wait_ready()
        # Dagster's webserver keeps connections, and says for each of them once that it is closed.
        until(lambda: answers(deployed), 60, deployed.diagnostics)
    status = deployed.wait(run_id, 180)
    print(f"\nthe run ended with {status}: {deployed.reasons(run_id)[-1500:]}")
    if status != "SUCCESS":
        goes_on(deployed, run_id)
    next_run_succeeds(deployed)


def answers(deployed: OnCluster) -> bool:
    """Whether the webserver answers several questions about its storage, one after the other."""
    try:
        return all(isinstance(deployed.claimed(), set) for _ in range(10))
    except DeploymentFailed:
        return False


def test_daemon_killed_comes_again_and_ends_no_run(deployed: OnCluster) -> None:
    with waiting_run(deployed) as (run_id, _):
        os.kill(process(deployed, "commands.serve_daemon").pid, signal.SIGKILL)
        queued = deployed.launch()
        until(lambda: restarts(deployed, "homelab-daemon") == 1, 60, deployed.diagnostics)
    assert deployed.wait(run_id) == "SUCCESS", deployed.diagnostics(run_id)
    assert deployed.wait(queued, 180) == "SUCCESS", deployed.diagnostics(queued)
    nothing_left(deployed)


def restarts(deployed: OnCluster, name: str) -> int:
    """How often the container of a workload's only pod was started again."""
    [pod] = deployed.get("pods", f"--selector=app.kubernetes.io/name={name}")["items"]
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


def test_two_daemons_by_mistake_launch_nothing_twice_and_fail_nothing(deployed: OnCluster) -> None:
    deployed.kubectl("scale", "deployment/homelab-daemon", "--replicas=2")
    try:
        deployed.kubectl("rollout", "status", "deployment/homelab-daemon", seconds=READY_SECONDS)
        logs = ("logs", "--selector=app.kubernetes.io/name=homelab-daemon", "--tail=-1")
        waits = "another daemon works on this storage"
        until(lambda: waits in deployed.kubectl(*logs), 60, deployed.diagnostics)
        runs = [deployed.launch() for _ in range(2)]
        assert [deployed.wait(run_id, 240) for run_id in runs] == ["SUCCESS"] * 2, deployed.diagnostics(runs[0])
        assert [len(deployed.pods_of(run_id)) for run_id in runs] == [1] * 2
    finally:
        deployed.kubectl("scale", "deployment/homelab-daemon", "--replicas=1")
    nothing_left(deployed)


@pytest.fixture
def second_node(deployed: OnCluster) -> Iterator[Node]:
    """A second node, where alone pods may go until a test opens the first one again."""
    cluster = deployed.cluster
    node = cluster.start_node(SECOND)
    cluster.kubectl("cordon", FIRST_NODE)
    yield node
    cluster.kubectl("uncordon", FIRST_NODE)
    node.kill()
    cluster.kubectl("delete", f"node/{SECOND}", "--ignore-not-found")


def test_drain_waits_for_a_run_and_a_tainted_node_loses_it_with_a_reason(
    deployed: OnCluster, second_node: Node
) -> None:
    with waiting_run(deployed) as (run_id, pod):
        deployed.cluster.kubectl("uncordon", FIRST_NODE)
        name = pod["metadata"]["name"]
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "homelab"}}
        path = f"/api/v1/namespaces/homelab/pods/{name}/eviction"
        asked = ("create", f"--raw={path}", "--filename=-")
        refused = deployed.cluster.try_kubectl(*asked, stdin=json.dumps(eviction))
        assert "Cannot evict pod as it would violate the pod's disruption budget" in refused.stderr
        deployed.cluster.kubectl("taint", "node", SECOND, "broken=yes:NoExecute")
        ends(deployed, run_id, TOLD_TO_END, seconds=120)
    goes_on(deployed, run_id)


@pytest.mark.parametrize("end", ["power cut", "kubelet stopped"])
def test_node_gone_fails_its_run_naming_the_node_and_it_is_started_on_another(
    deployed: OnCluster, second_node: Node, end: str
) -> None:
    with waiting_run(deployed) as (run_id, pod):
        assert pod["spec"]["nodeName"] == SECOND
        deployed.cluster.kubectl("uncordon", FIRST_NODE)
        if end == "power cut":
            second_node.kill()
        else:
            second_node.stop_kubelet()
        ends(deployed, run_id, f"its node {SECOND} was given up", seconds=180)
    again = deployed.retry_of(run_id)
    assert deployed.wait(again, 180) == "SUCCESS", deployed.diagnostics(again)
    [other] = deployed.pods_of(again)
    assert other["spec"]["nodeName"] == FIRST_NODE
    if end == "kubelet stopped":
        second_node.kubelet.start()
        nothing_left(deployed)
