"""The Kubernetes cluster of the tests is a real one: pods run, access is refused, and it survives its API server."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from homelab_pipelines.backup.connection import InPod
from homelab_pipelines.backup.containers import image_of
from tests.peers.docker import IMAGE as POSTGRES
from tests.peers.docker import DockerPeer
from tests.peers.kubernetes.cluster import FIRST_NODE, Cluster
from tests.peers.kubernetes.images import BUSYBOX, write_busybox, write_image
from tests.peers.kubernetes.processes import wait_until
from tests.peers.receiver import http_receiver

pytestmark = pytest.mark.kubernetes


def pod_spec(command: str, *, image: str = BUSYBOX, host_network: bool = True, **container: Any) -> dict[str, Any]:
    """A pod that runs a shell command once."""
    main = {"name": "main", "image": image, "imagePullPolicy": "Never", "command": ["sh", "-c", command], **container}
    return {
        "restartPolicy": "Never",
        "hostNetwork": host_network,
        "terminationGracePeriodSeconds": 1,
        "containers": [main],
    }


def job(name: str, namespace: str, spec: dict[str, Any]) -> str:
    return json.dumps(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"backoffLimit": 0, "template": {"spec": spec}},
        }
    )


def pod(name: str, namespace: str, spec: dict[str, Any]) -> str:
    metadata = {"name": name, "namespace": namespace}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def log_of(cluster: Cluster, namespace: str, name: str) -> str:
    return cluster.kubectl("logs", name, f"--namespace={namespace}")


def run_job(cluster: Cluster, namespace: str, name: str, spec: dict[str, Any]) -> str:
    """Run a job to its end and return what it wrote."""
    cluster.apply(job(name, namespace, spec))
    cluster.wait_for("condition=Complete", f"job/{name}", f"--namespace={namespace}", seconds=60)
    # containerd may bring the last lines a moment after the end.
    with suppress(TimeoutError):
        wait_until("the job's log", lambda: log_of(cluster, namespace, f"job/{name}") != "", 10, lambda: "")
    return log_of(cluster, namespace, f"job/{name}")


def test_node_of_the_wanted_version_is_ready(kubernetes: Cluster) -> None:
    node = kubernetes.get(f"node/{FIRST_NODE}")
    assert node["status"]["nodeInfo"]["kubeletVersion"].startswith("v1.34.")
    assert node["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
    assert [each["status"] for each in node["status"]["conditions"] if each["type"] == "Ready"] == ["True"]


def test_job_runs_to_completion_and_its_log_is_read(kubernetes: Cluster, namespace: str) -> None:
    assert run_job(kubernetes, namespace, "hello", pod_spec("echo hello from a pod")) == "hello from a pod\n"


def test_job_that_fails_is_failed(kubernetes: Cluster, namespace: str) -> None:
    kubernetes.apply(job("fails", namespace, pod_spec("echo no good; exit 3")))
    kubernetes.wait_for("condition=Failed", "job/fails", f"--namespace={namespace}")
    [ended] = kubernetes.get("pods", f"--namespace={namespace}")["items"]
    assert ended["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3


def test_pod_of_the_host_network_reaches_loopback_of_the_machine(kubernetes: Cluster, namespace: str) -> None:
    with http_receiver() as receiver:
        run_job(kubernetes, namespace, "calls", pod_spec(f"wget -q -O - --post-data=called {receiver.ping_url}"))
    assert [body for _, body in receiver.requests] == ["called"]


def test_pod_of_the_host_network_finds_a_service_by_the_name_that_its_pod_gives_it(
    kubernetes: Cluster, namespace: str
) -> None:
    with http_receiver() as receiver:
        url = receiver.ping_url.replace("127.0.0.1", "postgres.homelab.svc")
        spec = pod_spec(f"wget -q -O - --post-data=called {url}")
        spec["hostAliases"] = [{"ip": "127.0.0.1", "hostnames": ["postgres.homelab.svc"]}]
        run_job(kubernetes, namespace, "calls", spec)
    assert [body for _, body in receiver.requests] == ["called"]


def test_pod_with_its_own_network_answers_exec_and_its_neighbour(kubernetes: Cluster, namespace: str) -> None:
    kubernetes.apply(
        pod("server", namespace, pod_spec("while true; do echo answer | nc -l -p 80; done", host_network=False))
    )
    kubernetes.wait_for("condition=Ready", "pod/server", f"--namespace={namespace}")
    assert kubernetes.kubectl("exec", "server", f"--namespace={namespace}", "--", "echo", "inside") == "inside\n"
    address = kubernetes.get("pod/server", f"--namespace={namespace}")["status"]["podIP"]
    asks = pod_spec(f"nc -w 5 {address} 80 </dev/null", host_network=False)
    assert run_job(kubernetes, namespace, "neighbour", asks) == "answer\n"


def test_image_of_a_source_in_a_pod_is_what_the_pod_runs(
    kubernetes: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = pod_spec("sleep 600", host_network=False)
    [container] = spec["containers"]
    kubernetes.apply(pod("database", namespace, spec))
    kubernetes.wait_for("condition=Ready", "pod/database", f"--namespace={namespace}")
    monkeypatch.setenv("PATH", str(kubernetes.programs), prepend=os.pathsep)
    monkeypatch.setenv("KUBECONFIG", str(kubernetes.kubeconfig))
    assert image_of(InPod("database", namespace)) == container["image"]
    assert image_of(InPod("database", namespace, container=container["name"])) == container["image"]
    assert image_of(InPod("nobody", namespace)) is None
    unscheduled = pod_spec("sleep 600", host_network=False)
    unscheduled["nodeSelector"] = {"no": "such-node"}
    kubernetes.apply(pod("waiting", namespace, unscheduled))
    assert image_of(InPod("waiting", namespace)) is None


def test_secret_is_mounted_and_stands_in_the_environment(kubernetes: Cluster, namespace: str) -> None:
    kubernetes.kubectl(
        "create", "secret", "generic", "door", "--from-literal=key=open-sesame", f"--namespace={namespace}"
    )
    reference = {"secretKeyRef": {"name": "door", "key": "key"}}
    spec = pod_spec(
        "cat /door/key; echo; echo $KEY",
        env=[{"name": "KEY", "valueFrom": reference}],
        volumeMounts=[{"name": "door", "mountPath": "/door", "readOnly": True}],
    )
    spec["volumes"] = [{"name": "door", "secret": {"secretName": "door"}}]
    assert run_job(kubernetes, namespace, "opens", spec) == "open-sesame\nopen-sesame\n"


def test_memory_limit_ends_the_container_that_exceeds_it(kubernetes: Cluster, namespace: str) -> None:
    eats = "x=0123456789abcdef; while true; do x=$x$x; done"
    limits = {"limits": {"memory": "32Mi", "cpu": "500m"}}
    kubernetes.apply(job("eats", namespace, pod_spec(eats, resources=limits)))
    kubernetes.wait_for("condition=Failed", "job/eats", f"--namespace={namespace}")
    [ended] = kubernetes.get("pods", f"--namespace={namespace}")["items"]
    assert ended["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] == "OOMKilled"


def test_powerless_service_account_is_refused_and_one_with_a_role_is_not(kubernetes: Cluster, namespace: str) -> None:
    there = f"--namespace={namespace}"
    for name in ("powerless", "reader"):
        kubernetes.kubectl("create", "serviceaccount", name, there)
    kubernetes.kubectl("create", "role", "reads", "--verb=get,list", "--resource=pods", there)
    kubernetes.kubectl("create", "rolebinding", "reads", "--role=reads", f"--serviceaccount={namespace}:reader", there)
    review = ("auth", "can-i", "list", "pods", there)
    powerless, reader = (kubernetes.kubeconfig_of(namespace, name) for name in ("powerless", "reader"))
    assert kubernetes.try_kubectl(*review, kubeconfig=powerless).stdout == "no\n"
    assert kubernetes.try_kubectl(*review, kubeconfig=reader).stdout == "yes\n"
    refused = kubernetes.try_kubectl("get", "pods", there, kubeconfig=powerless)
    assert refused.returncode == 1
    assert f'"system:serviceaccount:{namespace}:powerless" cannot list resource "pods"' in refused.stderr
    assert (
        'cannot delete resource "pods"' in kubernetes.try_kubectl("delete", "pod/any", there, kubeconfig=reader).stderr
    )


def test_pod_is_known_to_the_api_server_by_the_token_it_was_given(kubernetes: Cluster, namespace: str) -> None:
    spec = pod_spec(
        "/programs/kubectl auth whoami --output=jsonpath='{.status.userInfo.username}'",
        volumeMounts=[{"name": "programs", "mountPath": "/programs", "readOnly": True}],
    )
    spec["volumes"] = [{"name": "programs", "hostPath": {"path": str(kubernetes.programs)}}]
    assert run_job(kubernetes, namespace, "who", spec) == f"system:serviceaccount:{namespace}:default"


def test_restricted_namespace_refuses_a_pod_of_the_host_network(kubernetes: Cluster, namespace: str) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    kubernetes.kubectl("label", "namespace", namespace, label)
    refused = kubernetes.try_kubectl("apply", "--filename=-", stdin=pod("bold", namespace, pod_spec("true")))
    assert refused.returncode == 1
    assert 'violates PodSecurity "restricted:latest": host namespaces (hostNetwork=true)' in refused.stderr


def test_imported_image_runs(kubernetes: Cluster, namespace: str, tmp_path: Path) -> None:
    write_busybox(tmp_path)
    (tmp_path / "busybox" / "mark").write_text("made by the test\n")
    archive = write_image(tmp_path / "own.tar", "homelab.test/own:1", tmp_path / "busybox", ("cat", "/mark"))
    kubernetes.import_image(archive)
    spec = pod_spec("cat /mark", image="homelab.test/own:1")
    assert run_job(kubernetes, namespace, "own", spec) == "made by the test\n"


@pytest.mark.docker
def test_image_that_docker_saved_runs(
    kubernetes: Cluster, namespace: str, docker_engine: DockerPeer, tmp_path: Path
) -> None:
    archive = tmp_path / "saved.tar"
    docker_engine.docker("save", "--output", str(archive), POSTGRES)
    kubernetes.import_image(archive)
    spec = pod_spec("postgres --version", image=POSTGRES)
    assert run_job(kubernetes, namespace, "saved", spec).startswith("postgres (PostgreSQL) 18")


def test_running_pod_outlives_the_api_server_and_its_end_is_told(
    kubernetes: Cluster, namespace: str, tmp_path: Path
) -> None:
    flag = tmp_path / "go"
    spec = pod_spec(
        "echo waiting; until [ -e /flag/go ]; do sleep 0.2; done; echo done",
        volumeMounts=[{"name": "flag", "mountPath": "/flag"}],
    )
    spec["volumes"] = [{"name": "flag", "hostPath": {"path": str(tmp_path)}}]
    kubernetes.apply(job("outlives", namespace, spec))
    kubernetes.wait_for("jsonpath={.status.ready}=1", "job/outlives", f"--namespace={namespace}")
    kubernetes.stop_api_server()
    try:
        assert kubernetes.try_kubectl("get", "nodes", "--request-timeout=2s").returncode == 1
        flag.touch()
        time.sleep(2)
    finally:
        kubernetes.start_api_server()
    kubernetes.wait_for("condition=Complete", "job/outlives", f"--namespace={namespace}", seconds=90)
    assert log_of(kubernetes, namespace, "job/outlives") == "waiting\ndone\n"
    kubernetes.wait_for("condition=Ready", f"node/{FIRST_NODE}")


def test_second_node_runs_pods_and_is_missed_when_it_is_gone(kubernetes: Cluster, namespace: str) -> None:
    second = kubernetes.start_node("node-2")
    try:
        spec = pod_spec("echo here; sleep 600", host_network=False) | {"nodeName": "node-2"}
        kubernetes.apply(pod("there", namespace, spec))
        kubernetes.wait_for("condition=Ready", "pod/there", f"--namespace={namespace}")
        wait_until(
            "the pod's log", lambda: log_of(kubernetes, namespace, "there") == "here\n", 10, kubernetes.diagnostics
        )
        second.kill()
        kubernetes.wait_for("condition=Ready=Unknown", "node/node-2", seconds=60)
        kubernetes.wait_for("condition=Ready", f"node/{FIRST_NODE}", seconds=5)
    finally:
        second.kill()
        kubernetes.kubectl("delete", "node/node-2", "--ignore-not-found")
