"""The nightly job in pods of a real cluster, as deploy/kubernetes sets it up: as promised, and with no secret shown.

The tests of this file are one story, told in order.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from homelab_pipelines.backup.records import list_store
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.local_deployment import graphql
from tests.cluster.deployment.conftest import OnCluster
from tests.deployed import JOB, until

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.postgres]


def test_nightly_backup_runs_in_a_pod_and_ends_restored_and_equal(deployed: OnCluster) -> None:
    run_id = deployed.launch()
    assert deployed.wait(run_id) == "SUCCESS", deployed.diagnostics(run_id)
    for name in ("nas", "usb"):
        records = list_store(DirectoryStore(deployed.backups / name, name)).backups
        assert {record.manifest.source for record in records} == {"main/photos", "main/@globals"}
        assert {record.status for record in records} == {"verified"}
    assert "Sent to launcher kubernetes (the default)." in deployed.reasons(run_id)
    print_costs(deployed, run_id)


def print_costs(deployed: OnCluster, run_id: str) -> None:
    """How long a launch took until its first step."""
    query = """query ($id: ID!) { runOrError(runId: $id) { ... on Run { creationTime stepStats { startTime } } } }"""
    run = graphql(deployed.web, query, {"id": run_id})["runOrError"]
    first = min(step["startTime"] for step in run["stepStats"] if step["startTime"])
    print(f"\nlaunch to first step: {first - run['creationTime']:.1f} s")


def test_run_had_a_pod_of_its_own_without_token_privilege_or_right_to_write_its_image(deployed: OnCluster) -> None:
    def phases() -> list[str]:
        return [pod["status"]["phase"] for pod in deployed.get("pods", "--selector=homelab/role=run")["items"]]

    until(lambda: phases() == ["Succeeded"], 30, deployed.diagnostics)  # kept, so that it can be looked at
    [pod] = deployed.get("pods", "--selector=homelab/role=run")["items"]
    spec, [container] = pod["spec"], pod["spec"]["containers"]
    assert spec["serviceAccountName"] == "homelab-run" and spec["automountServiceAccountToken"] is False
    assert not any("projected" in volume for volume in spec["volumes"]), "no token of the API server"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"] == {"memory": "2Gi"}
    daemon = deployed.get("deployment/homelab-daemon")["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == daemon["image"], "the daemon's own"


def test_run_pod_is_admitted_where_pod_security_is_restricted(deployed: OnCluster) -> None:
    [pod] = deployed.get("pods", "--selector=homelab/role=run")["items"]
    spec = {key: value for key, value in pod["spec"].items() if key not in ("hostNetwork", "hostAliases", "nodeName")}
    for container in spec["containers"]:
        container.pop("ports", None)
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": spec}
    name = "test-restricted"
    deployed.cluster.kubectl("create", "namespace", name)
    try:
        deployed.cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        deployed.cluster.kubectl("create", "serviceaccount", "homelab-run", f"--namespace={name}")
        asked = ("create", "--dry-run=server", "--filename=-", f"--namespace={name}")
        done = deployed.cluster.try_kubectl(*asked, stdin=json.dumps(made))
        assert done.returncode == 0, done.stderr
    finally:
        deployed.cluster.kubectl("delete", "namespace", name, "--wait=false")


def test_logs_of_a_run_pod_reach_the_ui(deployed: OnCluster) -> None:
    [pod] = deployed.get("pods", "--selector=homelab/role=run")["items"]
    run_id = pod["metadata"]["labels"]["dagster/run-id"]
    query = """query ($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
        ... on LogsCapturedEvent { fileKey } } } } }"""
    events = graphql(deployed.web, query, {"id": run_id})["logsForRun"]["events"]
    keys = [event["fileKey"] for event in events if event.get("fileKey")]
    query = "query ($key: [String!]!) { capturedLogs(logKey: $key) { stdout stderr } }"
    shown = [graphql(deployed.web, query, {"key": [run_id, "compute_logs", key]})["capturedLogs"] for key in keys]
    assert any("database_backup__photos" in (each["stderr"] or "") for each in shown), shown


def test_schedule_ticks_and_its_run_has_a_pod(deployed: OnCluster) -> None:
    deployed.write_inventory({"backups": {"schedule": "* * * * *"}})
    tag = ("dagster/schedule_name", f"{JOB}_schedule")
    # The kubelet brings the file within about a minute; then the code server notices, and the next minute begins.
    try:
        found = until(lambda: deployed.runs_with(*tag), 240, deployed.diagnostics)
    finally:
        deployed.write_inventory({})
    assert deployed.wait(found[-1]) == "SUCCESS", deployed.diagnostics(found[-1])
    assert deployed.pods_of(found[-1])
    until(lambda: deployed.schedule() == "30 3 * * *", 150, deployed.diagnostics)
    for run_id in deployed.runs_with(*tag):
        deployed.wait(run_id)


def test_sensor_tells_people_of_a_failed_run(deployed: OnCluster) -> None:
    deployed.peer.drop_database("photos_gone")
    with deployed.peer.connect() as connection:
        connection.execute("ALTER DATABASE photos RENAME TO photos_gone")
    try:
        run_id = deployed.launch()
        assert deployed.wait(run_id) == "FAILURE"
    finally:
        with deployed.peer.connect() as connection:
            connection.execute("ALTER DATABASE photos_gone RENAME TO photos")
    said = until(lambda: deployed.receiver.alerts(run_id), 60, deployed.diagnostics)
    assert said[0].startswith(f"homelab: {JOB} failed\n"), said


def test_no_secret_stands_in_objects_logs_or_dagsters_storage(deployed: OnCluster) -> None:
    kinds = "pods,jobs,deployments,statefulsets,replicasets,configmaps,events,endpoints,services"
    dumped = dump_of_storage(deployed)
    assert "restorable" in dumped, "event log and snapshots were looked at"
    names = [pod["metadata"]["name"] for pod in deployed.get("pods")["items"]]
    looked = {
        "objects": deployed.kubectl("get", kinds, "--output=yaml"),
        "Dagster's storage": dumped,
        "logs": "\n".join(deployed.kubectl("logs", name) for name in names),
    }
    assert "DAGSTER_PG_PASSWORD_FILE" in looked["objects"] and "secretName: homelab-secrets" in looked["objects"]
    for name, secret in deployed.secrets.items():
        assert len(secret) > 12
        assert [where for where, text in looked.items() if secret in text] == [], name


def dump_of_storage(deployed: OnCluster) -> str:
    """All that Dagster stores, as SQL."""
    script = 'PGPASSWORD="$(cat /run/secrets/homelab/postgresql-password)" exec pg_dump -h 127.0.0.1 -U dagster dagster'
    return deployed.kubectl("exec", "homelab-postgres-0", "--", "sh", "-c", script, seconds=120)


def test_run_may_ask_for_resources_and_a_node_and_for_nothing_else(deployed: OnCluster) -> None:
    asked: dict[str, Any] = {"container_config": {"resources": {"limits": {"memory": "1Gi"}}}}
    run_id = deployed.launch({"dagster-k8s/config": json.dumps(asked)})
    assert deployed.wait(run_id) == "SUCCESS", deployed.diagnostics(run_id)
    [pod] = deployed.pods_of(run_id)
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"memory": "1Gi"}
    secret = {"pod_spec_config": {"volumes": [{"name": "door", "secret": {"secretName": "homelab-storage"}}]}}
    started = time.monotonic()
    refused = deployed.launch({"dagster-k8s/config": json.dumps(secret)})
    assert deployed.wait(refused) == "FAILURE"
    print(f"\nrefused after {time.monotonic() - started:.1f} s")
    assert "violated the allowed list: pod_spec_config.volumes" in deployed.reasons(refused)
    assert deployed.pods_of(refused) == []
