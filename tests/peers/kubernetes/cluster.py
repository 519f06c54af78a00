"""The fixture `kubernetes`: a real cluster of one node for the test session, and what tests may ask of it.

Pods need `imagePullPolicy: Never` (nothing can be pulled) and an image that is there: images.BUSYBOX, or what
`import_image` brought. With `hostNetwork: true` they reach 127.0.0.1 of the machine, and the API server as any pod
does; without, they have an address and reach each other, but not the API server.

There is no kube-proxy, no DNS and nothing that enforces a NetworkPolicy: such objects are stored and carry no traffic.
A pod of the host's network finds others by the names of their Services when its `hostAliases` say 127.0.0.1 for them.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.peers.kubernetes import images
from tests.peers.kubernetes.certificates import Authority, write_kubeconfig
from tests.peers.kubernetes.control_plane import ControlPlane
from tests.peers.kubernetes.leftovers import cluster_folder
from tests.peers.kubernetes.node import Node
from tests.peers.kubernetes.processes import wait_until
from tests.peers.kubernetes.programs import check_machine, compiled

FIRST_NODE = "node-1"
NODE_READY_SECONDS = 90.0
UNINITIALISED = "node.cloudprovider.kubernetes.io/uninitialized"


class Cluster:
    """A running cluster. `kubeconfig` is an administrator's, `nodes` are those that were started, by name.

    `programs` is the folder of the compiled programs, kubectl among them.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder, programs
        self.authority = Authority(folder / "certificates")
        self.control_plane = ControlPlane(folder, programs, self.authority)
        self.kubeconfig = self.control_plane.admin
        self.nodes: dict[str, Node] = {}
        self._archives = list(images.write_busybox(folder))

    @property
    def url(self) -> str:
        """The API server's URL, on a loopback address."""
        return self.control_plane.url

    def start(self) -> None:
        """Start everything and wait until the first node is ready and pods may be made in `default`."""
        self.control_plane.start()
        self.start_node(FIRST_NODE)
        # A pod is refused as long as its service account is not there yet.
        wait_until("the service account default/default", self._has_service_account, 60, self.diagnostics)

    def stop(self) -> None:
        """End every process, by pid."""
        for node in self.nodes.values():
            node.kill()
        self.control_plane.stop()

    def kubectl(self, *arguments: str, stdin: str = "", seconds: float = 60) -> str:
        """What kubectl writes; an AssertionError with its message when it fails."""
        done = self.try_kubectl(*arguments, stdin=stdin, seconds=seconds)
        assert done.returncode == 0, f"kubectl {shlex.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def try_kubectl(
        self, *arguments: str, stdin: str = "", seconds: float = 60, kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator, or as whom `kubeconfig` names, and return how it ended."""
        command = (
            str(self.programs / "kubectl"),
            f"--kubeconfig={kubeconfig or self.kubeconfig}",
            f"--cache-dir={self.folder / 'kubectl'}",
            *arguments,
        )
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=seconds)

    def apply(self, text: str) -> str:
        """Apply manifests (YAML or JSON)."""
        return self.kubectl("apply", "--filename=-", stdin=text)

    def get(self, *arguments: str) -> dict[str, Any]:
        """An object or a list, as `kubectl get` finds it."""
        found: dict[str, Any] = json.loads(self.kubectl("get", "--output=json", *arguments))
        return found

    def wait_for(self, condition: str, *arguments: str, seconds: float = 60) -> None:
        """`kubectl wait --for=CONDITION`; on failure with the pods and events of the whole cluster."""
        done = self.try_kubectl(
            "wait", f"--for={condition}", f"--timeout={seconds:.0f}s", *arguments, seconds=seconds + 30
        )
        assert done.returncode == 0, f"{condition} of {shlex.join(arguments)}: {done.stderr}\n{self.diagnostics()}"

    def kubeconfig_of(self, namespace: str, service_account: str) -> Path:
        """A kubeconfig that speaks as a service account, with a token of one hour."""
        token = self.kubectl("create", "token", service_account, f"--namespace={namespace}").strip()
        path = self.folder / f"{namespace}-{service_account}.kubeconfig"
        write_kubeconfig(path, self.url, self.authority.certificate, {"token": token})
        return path

    def import_image(self, archive: Path) -> None:
        """Give every node, those to come or to come back too, the images in an archive of `docker save` or of OCI."""
        self._archives.append(archive)
        for node in self.nodes.values():
            if node.containerd.running:
                node.import_image(archive)

    def start_node(self, name: str) -> Node:
        """Start a node, or one that was killed, and wait until it is ready."""
        if name not in self.nodes:
            number = len(self.nodes) + 1
            self.nodes[name] = Node(name, number, self.folder, self.programs, self.authority, self.url)
        node, started = self.nodes[name], datetime.now(UTC).replace(microsecond=0)
        node.start()
        for archive in self._archives:
            node.import_image(archive)
        wait_until(f"{name} registers", lambda: self._admit(name), NODE_READY_SECONDS, self.diagnostics)
        wait_until(f"{name} is ready", lambda: self._is_ready(name, started), NODE_READY_SECONDS, self.diagnostics)
        return node

    def stop_api_server(self) -> None:
        """End the API server at once; kubelets, controllers and pods go on without it."""
        # Asked kindly it would wait up to a minute for those who watch it, and they never stop of themselves.
        self.control_plane.api_server.kill()

    def start_api_server(self) -> None:
        """Start the API server again, on the same address and data, and wait until it is ready."""
        self.control_plane.start_api_server()

    def diagnostics(self) -> str:
        """Pods, events and the ends of all logs, for the message of a failure."""
        asked = [("get", "nodes,pods", "--all-namespaces", "--output=wide"), ("events", "--all-namespaces")]
        parts = []
        for arguments in asked if self.control_plane.api_server.running else ():
            try:
                done = self.try_kubectl("--request-timeout=5s", *arguments, seconds=20)
            except subprocess.TimeoutExpired:
                continue
            parts.append(f"--- kubectl {shlex.join(arguments)}\n{done.stdout[-4000:]}{done.stderr[-1000:]}")
        parts += [node.diagnostics() for node in self.nodes.values()]
        return "\n".join([*parts, self.control_plane.diagnostics()])

    def _admit(self, name: str) -> bool:
        """What a cloud's controller does for a node that has registered: give it its address, open it for pods."""
        if self.try_kubectl("get", f"node/{name}").returncode:
            return False
        addresses = [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}]
        patch = json.dumps({"status": {"addresses": addresses}})
        self.kubectl("patch", f"node/{name}", "--subresource=status", "--type=merge", f"--patch={patch}")
        self.try_kubectl("taint", "node", name, f"{UNINITIALISED}-")
        taints = self.get(f"node/{name}")["spec"].get("taints", [])
        return all(taint["key"] != UNINITIALISED for taint in taints)

    def _is_ready(self, name: str, since: datetime) -> bool:
        """Whether the node has said since `since` that it is ready: what a killed one said last still stands there."""
        for condition in self.get(f"node/{name}")["status"].get("conditions", []):
            if condition["type"] == "Ready" and condition["status"] == "True":
                return datetime.fromisoformat(condition["lastHeartbeatTime"]) >= since
        return False

    def _has_service_account(self) -> bool:
        return self.try_kubectl("get", "serviceaccount/default").returncode == 0


@contextmanager
def running_cluster(programs: Path) -> Iterator[Cluster]:
    """A cluster with one node until the block ends; then every process, mount, control group and file of it is gone."""
    with cluster_folder() as folder:
        cluster = Cluster(folder, programs)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="session")
def kubernetes() -> Iterator[Cluster]:
    """A Kubernetes cluster of our own (root, and what programs.py names, needed); compiled first on a new machine."""
    check_machine()
    with running_cluster(compiled()) as cluster:
        yield cluster


@pytest.fixture
def namespace(kubernetes: Cluster) -> Iterator[str]:
    """A fresh namespace whose pods may use the host's network; deleted with all that is in it."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    kubernetes.kubectl("create", "namespace", name)
    wait_until(
        f"the service account of {name}",
        lambda: kubernetes.try_kubectl("get", "serviceaccount/default", f"--namespace={name}").returncode == 0,
        30,
        kubernetes.diagnostics,
    )
    yield name
    kubernetes.kubectl("delete", "namespace", name, "--wait=false")
