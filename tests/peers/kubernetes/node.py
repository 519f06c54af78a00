"""One node: containerd and a kubelet in namespaces of their own, so that pods run for real and end with the node.

The node has its own mounts and process numbers but the machine's network: a pod with `hostNetwork: true` reaches what
listens on 127.0.0.1. Other pods get an address on the node's bridge; they reach each other, not the API server.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.peers.kubernetes import leftovers
from tests.peers.kubernetes.certificates import Authority
from tests.peers.kubernetes.images import PAUSE
from tests.peers.kubernetes.processes import Program, only_child, wait_until
from tests.peers.kubernetes.programs import NETWORK_PLUGINS
from tests.peers.ports import free_port

# The kubelet insists on setting these (pkg/kubelet/cm/container_manager_linux.go), and the bridge plugin the last one.
# Among them: a kernel that reboots at the first oops. The node gets files of its own in their place.
KERNEL_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
)
# Where containerd, the kubelet and the network plugins write outside the folders that they can be told. The node sees
# the machine's files there, and what it writes goes to its own folder.
SHARED_FOLDERS = ("/var/lib", "/var/log")
# The first process of the node. As its children's deaths are ignored the kernel reaps what containers leave behind.
FIRST_PROCESS = "exec env --ignore-signal=CHLD sleep infinity"


class Node:
    """A node whose processes all end when `kill` ends the first of them, as at a power cut."""

    def __init__(self, name: str, number: int, cluster: Path, programs: Path, authority: Authority, api: str) -> None:
        self.name, self._number, self._cluster, self._programs = name, number, cluster, programs
        self.folder = cluster / name
        self.folder.mkdir()
        self.port = free_port()
        self.socket = self.folder / "containerd.sock"
        self._certificate, self._key = authority.issue(f"{name}-serving", name, hosts=("127.0.0.1", name))
        self._authority = authority.certificate
        self._kubeconfig = authority.kubeconfig(
            self.folder / "kubelet.kubeconfig", api, f"system:node:{name}", "system:nodes"
        )
        self._first = Program(f"{name} namespaces", self._namespaces(), self.folder / "namespaces.log")
        self.containerd = Program(f"{name} containerd", (), self.folder / "containerd.log")
        self.kubelet = Program(f"{name} kubelet", (), self.folder / "kubelet.log")
        self._write_configuration()

    def start(self) -> None:
        """Make the namespaces and start containerd and the kubelet in them."""
        (self.folder / "prepared").unlink(missing_ok=True)
        self._first.start()
        wait_until(f"the namespaces of {self.name}", self._prepared, 20, self.diagnostics, pause=0.02)
        first = only_child(self._first.pid)
        assert first is not None, self.diagnostics()
        inside = ("nsenter", f"--target={first}", "--mount", "--pid", "--")
        self.containerd.command = (*inside, "containerd", "--config", str(self.folder / "containerd.toml"))
        self.kubelet.command = (
            *inside,
            str(self._programs / "kubelet"),
            f"--config={self.folder / 'kubelet.json'}",
            f"--kubeconfig={self._kubeconfig}",
            f"--hostname-override={self.name}",
            f"--root-dir={self.folder / 'kubelet'}",
            f"--cert-dir={self.folder / 'certificates'}",
            # The kubelet refuses a loopback address of its own choice. A cloud's controller may give it any address;
            # the cluster does that controller's work (cluster.py, _admit).
            "--cloud-provider=external",
        )
        self.containerd.start()
        wait_until(f"containerd of {self.name}", self._answers, 30, self.diagnostics)
        self.kubelet.start()

    def import_image(self, archive: Path) -> None:
        """Give containerd the images in an archive of `docker save` or of OCI."""
        self.ctr("images", "import", str(archive), seconds=180)

    def ctr(self, *arguments: str, seconds: float = 60) -> str:
        """Run containerd's own client in the namespace of the kubelet's containers."""
        command = ("ctr", "--address", str(self.socket), "--namespace", "k8s.io", *arguments)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
        assert done.returncode == 0, f"ctr {shlex.join(arguments)}: {done.stderr}{self.diagnostics()}"
        return done.stdout

    def stop_kubelet(self) -> None:
        """End the kubelet; its pods go on."""
        if self.kubelet.running and (pid := only_child(self.kubelet.pid)):
            os.kill(pid, signal.SIGKILL)
        self.kubelet.stop()

    def kill(self) -> None:
        """End every process of the node at once; `start` brings it back with the same disk."""
        if self._first.running and (pid := only_child(self._first.pid)):
            # With the first process of a namespace the kernel kills all others, and the first one ends after them.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._first.wait(30)
        for program in (self.kubelet, self.containerd, self._first):
            program.kill()

    def diagnostics(self) -> str:
        """The ends of the node's logs."""
        return "\n".join(program.tail() for program in (self._first, self.containerd, self.kubelet))

    def _prepared(self) -> bool:
        if not self._first.running:
            raise RuntimeError(f"{self.name} has no namespaces: {self._first.tail()}")
        return (self.folder / "prepared").exists()

    def _answers(self) -> bool:
        if not self.containerd.running:
            raise RuntimeError(f"containerd has ended: {self.containerd.tail()}")
        command = ("ctr", "--address", str(self.socket), "--connect-timeout", "1s", "version")
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0

    def _namespaces(self) -> tuple[str, ...]:
        lines = ["set -eu", "mount --make-rshared /", "mount -t tmpfs -o mode=755 tmpfs /run"]
        for place in SHARED_FOLDERS:
            own = self.folder / "machine" / place.strip("/")
            for each in ("upper", "work"):
                (own / each).mkdir(parents=True)
            lines.append(f"mount -t overlay -o lowerdir={place},upperdir={own}/upper,workdir={own}/work node {place}")
        for setting in KERNEL_SETTINGS:
            own = self.folder / "kernel" / setting
            own.parent.mkdir(parents=True, exist_ok=True)
            lines.append(f"cat /proc/sys/{setting} > {own}")
            lines.append(f"mount --bind {own} /proc/sys/{setting}")
        lines += [f"touch {self.folder / 'prepared'}", FIRST_PROCESS]
        options = ("--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc")
        return ("unshare", *options, "--", "sh", "-c", "\n".join(lines))

    def _write_configuration(self) -> None:
        cgroup = leftovers.make_cgroup(self._cluster, self.name)
        # No name server: an answer "refused" at once, where the machine's own may be out of reach for ten seconds.
        (self.folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        network = self.folder / "network"
        network.mkdir()
        (network / "10-bridge.conflist").write_text(json.dumps(self._network()))
        (self.folder / "containerd.toml").write_text(CONTAINERD.format(folder=self.folder, runc=shutil.which("runc")))
        settings = kubelet_configuration(self.folder, self.port, self._authority, cgroup)
        settings |= {"tlsCertFile": str(self._certificate), "tlsPrivateKeyFile": str(self._key)}
        (self.folder / "kubelet.json").write_text(json.dumps(settings, indent=1))

    def _network(self) -> dict[str, object]:
        ranges = [[{"subnet": str(_unused_network())}]]
        bridge = {
            "type": "bridge",
            "bridge": leftovers.bridge_name(self._cluster, self._number),
            "isGateway": True,
            "ipam": {"type": "host-local", "ranges": ranges},
        }
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}


def _unused_network() -> ipaddress.IPv4Network:
    """A private network for pods that no route of this machine leads to."""
    listed = subprocess.run(
        ("ip", "-json", "-4", "route"), capture_output=True, text=True, check=True, timeout=30
    ).stdout
    known = [route["dst"] for route in json.loads(listed or "[]") if route["dst"] != "default"]
    while True:
        drawn = ipaddress.IPv4Network(f"10.{random.randrange(128, 255)}.{random.randrange(256)}.0/24")
        if not any(drawn.overlaps(ipaddress.IPv4Network(each)) for each in known):
            return drawn


def kubelet_configuration(folder: Path, port: int, authority: Path, cgroup: str) -> dict[str, object]:
    """A KubeletConfiguration (kubelet.config.k8s.io/v1beta1) for a node on a machine that has other work too."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "127.0.0.1",
        "port": port,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{folder}/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        # A container without CAP_SYS_RESOURCE may not make itself less likely to be killed.
        "oomScoreAdj": 0,
        "failSwapOn": False,
        # The firewall is the machine's, and without kube-proxy nothing needs the kubelet's chains in it.
        "makeIPTablesUtilChains": False,
        "podLogsDir": str(folder / "logs"),
        "volumePluginDir": str(folder / "volume-plugins"),
        "resolvConf": str(folder / "resolv.conf"),
        # A full disk of the machine is not the tests' subject: nothing is evicted, no image is thrown away.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        # A node that is gone is noticed after 20 s rather than 50 (see control_plane.py).
        "nodeLeaseDurationSeconds": 12,
        "nodeStatusUpdateFrequency": "4s",
        # A changed ConfigMap is in its pods within 10 s rather than 90.
        "syncFrequency": "10s",
    }


CONTAINERD = f"""version = 2
root = "{{folder}}/images"
state = "{{folder}}/state"
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp"
]
[grpc]
address = "{{folder}}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{NETWORK_PLUGINS}"
conf_dir = "{{folder}}/network"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{{runc}}"
SystemdCgroup = false
"""
