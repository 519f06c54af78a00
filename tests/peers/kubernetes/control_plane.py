"""etcd, API server, controller manager and scheduler, each a process of this machine that listens on loopback only."""

from __future__ import annotations

import http.client
import random
import socket
import ssl
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.peers.kubernetes.certificates import Authority, write_key
from tests.peers.kubernetes.processes import Program, wait_until
from tests.peers.ports import free_port

HTTPS = 443
READY_SECONDS = 90.0


class ControlPlane:
    """The four programs. `address` is the API server's, `admin` the kubeconfig of a member of system:masters."""

    def __init__(self, folder: Path, programs: Path, authority: Authority) -> None:
        self._folder, self._programs, self._authority = folder, programs, authority
        self.address = _service_address()
        self.url = f"https://{self.address}:{HTTPS}"
        self.admin = authority.kubeconfig(folder / "admin.kubeconfig", self.url, "admin", "system:masters")
        self._service_account_key()
        self.etcd = self._etcd()
        self.api_server = self._api_server()
        self.controllers, self.scheduler = self._controller_manager(), self._scheduler()
        certificate, key = authority.issue("probe", "probe", "system:masters")
        self._context = ssl.create_default_context(cafile=str(authority.certificate))
        self._context.load_cert_chain(certificate, key)

    @property
    def all(self) -> tuple[Program, ...]:
        """The programs in the order of their start."""
        return self.etcd, self.api_server, self.controllers, self.scheduler

    def start(self) -> None:
        """Start etcd and the API server, and the two that ask it once it answers."""
        self.etcd.start()
        self.start_api_server()
        self.controllers.start()
        self.scheduler.start()

    def start_api_server(self, seconds: float = READY_SECONDS) -> None:
        """Start the API server and wait until it says that it is ready."""
        self.api_server.start()
        wait_until("the API server is ready", self._ready, seconds, self.diagnostics)

    def stop(self) -> None:
        """End all four, those that ask before those that answer."""
        for program in reversed(self.all):
            program.kill()

    def diagnostics(self) -> str:
        """The ends of the logs."""
        return "\n".join(program.tail() for program in self.all)

    def _ready(self) -> bool:
        for program in (self.etcd, self.api_server):
            if not program.running:
                raise RuntimeError(f"{program.name} has ended\n{program.tail()}")
        connection = http.client.HTTPSConnection(self.address, HTTPS, timeout=5, context=self._context)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _program(self, name: str, *arguments: str) -> Program:
        return Program(name, (str(self._programs / name), *arguments), self._folder / f"{name}.log")

    def _service_account_key(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        write_key(self._folder / "service-account.key", key)
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        (self._folder / "service-account.pub").write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, form)
        )

    def _etcd(self) -> Program:
        certificate, key = self._authority.issue("etcd", "etcd", hosts=("127.0.0.1",))
        self._etcd_url, peers = f"https://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        return self._program(
            "etcd",
            f"--data-dir={self._folder / 'etcd'}",
            "--name=test",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=test={peers}",
            "--client-cert-auth",
            f"--trusted-ca-file={self._authority.certificate}",
            f"--cert-file={certificate}",
            f"--key-file={key}",
            # The data is thrown away, and nobody cuts the power of this machine to test etcd.
            "--unsafe-no-fsync",
            "--log-level=warn",
        )

    def _api_server(self) -> Program:
        hosts = (self.address, "127.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        certificate, key = self._authority.issue("kube-apiserver", "kube-apiserver", hosts=hosts)
        client = self._authority.issue("kube-apiserver-client", "kube-apiserver-client", "system:masters")
        return self._program(
            "kube-apiserver",
            f"--etcd-servers={self._etcd_url}",
            f"--etcd-cafile={self._authority.certificate}",
            f"--etcd-certfile={client[0]}",
            f"--etcd-keyfile={client[1]}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={HTTPS}",
            # The API server listens on what the service `kubernetes` promises to pods, the first address of this range.
            # It may not stand in an Endpoints object, as it is loopback, and nothing here would read that object.
            f"--service-cluster-ip-range={self.address.rpartition('.')[0]}.0/24",
            "--endpoint-reconciler-type=none",
            f"--client-ca-file={self._authority.certificate}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--kubelet-certificate-authority={self._authority.certificate}",
            f"--kubelet-client-certificate={client[0]}",
            f"--kubelet-client-key={client[1]}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={self._folder / 'service-account.pub'}",
            f"--service-account-signing-key-file={self._folder / 'service-account.key'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--profiling=false",
        )

    def _controller_manager(self) -> Program:
        return self._program(
            "kube-controller-manager",
            *self._client("kube-controller-manager"),
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self._folder / 'service-account.key'}",
            f"--root-ca-file={self._authority.certificate}",
            # Kubelets renew their lease every 3 s (node.py), so a node that is gone is noticed sooner than in 50 s.
            "--node-monitor-grace-period=20s",
            "--node-monitor-period=2s",
        )

    def _scheduler(self) -> Program:
        return self._program("kube-scheduler", *self._client("kube-scheduler"))

    def _client(self, name: str) -> tuple[str, ...]:
        config = self._authority.kubeconfig(self._folder / f"{name}.kubeconfig", self.url, f"system:{name}")
        return f"--kubeconfig={config}", "--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0"


def _service_address() -> str:
    """A loopback address of this machine whose port 443 is free; two clusters at a time get different ones."""
    for _ in range(100):
        address = f"127.{random.randrange(64, 128)}.{random.randrange(256)}.1"
        try:
            with socket.create_server((address, HTTPS)):
                return address
        except OSError:
            continue
    raise RuntimeError("no loopback address has port 443 free; next: ss -tlnp 'sport = :443'")
