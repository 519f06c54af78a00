"""A source in a pod of a real cluster, reached by `kubectl exec` with no more rights than that needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from homelab_pipelines.backup.connection import Connection, InPod
from homelab_pipelines.backup.errors import BackupError, SourceRefused
from homelab_pipelines.backup.session import connect
from tests.integration.cli.conftest import homelab
from tests.integration.house import REPOSITORY, House
from tests.peers.docker import IMAGE as POSTGRES
from tests.peers.docker import DockerPeer
from tests.peers.kubernetes.cluster import Cluster
from tests.peers.postgres import server_of

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.postgres]
PASSWORD = "a secret 'with' quotes"
POD = "postgres-0"
ACCESS = REPOSITORY / "deploy/kubernetes/pod-source.yaml"
NAMESPACE, OWN, ACCOUNT = "nextcloud", "homelab-of-the-pods", "homelab-run"


@pytest.fixture(scope="module")
def source(
    kubernetes: Cluster, docker_engine: DockerPeer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Connection]:
    """A server in a pod that asks for a password even on its socket; kubectl speaks as one who may only enter pods."""
    archive = tmp_path_factory.mktemp("source") / "postgres.tar"
    docker_engine.docker("save", "--output", str(archive), POSTGRES)
    kubernetes.import_image(archive)
    with ExitStack() as stack:
        for name in (NAMESPACE, OWN):
            kubernetes.kubectl("create", "namespace", name)
            stack.callback(kubernetes.kubectl, "delete", "namespace", name, "--wait=false")
        there = f"--namespace={NAMESPACE}"
        kubernetes.kubectl("create", "secret", "generic", "postgres", f"--from-literal=password={PASSWORD}", there)
        kubernetes.apply(yaml.safe_dump(pod()))
        kubernetes.kubectl("create", "serviceaccount", ACCOUNT, f"--namespace={OWN}")
        kubernetes.apply(ACCESS.read_text().replace("namespace: homelab}", f"namespace: {OWN}}}"))
        kubernetes.wait_for("condition=Ready", f"pod/{POD}", there)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("KUBECONFIG", str(kubernetes.kubeconfig_of(OWN, ACCOUNT)))
        patch.setenv("PATH", f"{kubernetes.programs}:{os.environ['PATH']}")
        connection = Connection("cloud", InPod(POD, NAMESPACE), password=PASSWORD)
        with connect(connection) as session:
            session.execute("CREATE DATABASE nextcloud")
        with connect(connection, "nextcloud") as session:
            session.execute(
                "CREATE TABLE public.item AS SELECT n, 'täxt ' || n AS word FROM generate_series(1, 500) AS n"
            )
        yield connection


def pod() -> dict[str, Any]:
    """A PostgreSQL server with a network of its own."""
    reference = {"secretKeyRef": {"name": "postgres", "key": "password"}}
    password = {"name": "POSTGRES_PASSWORD", "valueFrom": reference}
    container = {
        "name": "postgres",
        "image": POSTGRES,
        "imagePullPolicy": "Never",
        "args": ["postgres"],
        "env": [password, {"name": "LOCAL_AUTH", "value": "scram-sha-256"}],
        "readinessProbe": {"exec": {"command": ["pg_isready"]}, "periodSeconds": 1},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD, "namespace": NAMESPACE},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }


def test_database_in_a_pod_is_backed_up_restored_and_equal(source: Connection, tmp_path: Path) -> None:
    house = house_of(source, tmp_path)
    said = homelab(house.folder, "backup")
    assert said.status == 0, said.out + said.err
    for name in ("nas", "usb"):
        records = house.records(name)
        assert {record.manifest.source for record in records} == {"main/nextcloud", "main/@globals"}
        assert {record.status for record in records} == {"verified"}
    [record] = house.records("nas", "main/nextcloud")
    assert [table.rows for table in record.manifest.evidence.tables] == [500]


def house_of(source: Connection, folder: Path) -> House:
    """An inventory whose one server is the pod."""
    assert isinstance(source.place, InPod)
    at = {"host": None, "port": None, "pod": source.place.pod, "namespace": source.place.namespace}
    house = House(folder / "house", server_of(18), ["nextcloud"], {"databases": {"main": {"at": at}}})
    house.write_secret("password", PASSWORD)
    return house


def test_wrong_password_of_a_database_in_a_pod_is_refused_without_showing_it(
    source: Connection, tmp_path: Path
) -> None:
    wrong = Connection("cloud", source.place, password="not the password")
    with pytest.raises(SourceRefused) as caught, connect(wrong):
        pass
    assert "authentication failed" in str(caught.value)
    assert "not the password" not in str(caught.value)


def test_unknown_pod_says_so(source: Connection) -> None:
    assert isinstance(source.place, InPod)
    nobody = Connection("cloud", InPod("nobody", source.place.namespace), password=PASSWORD)
    with pytest.raises(BackupError, match='pods "nobody" not found'), connect(nobody):
        pass


def test_account_that_may_not_enter_pods_says_so(
    source: Connection, kubernetes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(source.place, InPod)
    monkeypatch.setenv("KUBECONFIG", str(kubernetes.kubeconfig_of(source.place.namespace, "default")))
    with pytest.raises(BackupError, match="cannot get resource") as caught, connect(source):
        pass
    assert PASSWORD not in str(caught.value)
