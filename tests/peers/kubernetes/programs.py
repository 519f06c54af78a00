"""The programs of the cluster: those of Kubernetes and etcd are compiled from go.mod beside this file, once a machine.

Compiling takes minutes, so the result stays in the user's cache under a digest of everything that it depends on.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.peers import missing
from tests.peers.go import cache_folder, find_go

MODULE = Path(__file__).parent
BUILD_SECONDS = 45 * 60
# Static, without symbols for a debugger: a third less to compile and to keep.
BUILD_FLAGS = ("-trimpath", "-gcflags=all=-dwarf=false")
COMPILED = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet")
DEBIAN = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "busybox": "busybox-static",
    "ip": "iproute2",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "nsenter": "util-linux",
}
NETWORK_PLUGINS = Path("/usr/lib/cni")


def check_machine() -> None:
    """Skip, or fail under CI=true, when this machine cannot run a node."""
    if os.geteuid() != 0:
        missing("a Kubernetes node needs root")
    if not Path("/sys/fs/cgroup/memory").is_dir() and not Path("/sys/fs/cgroup/cgroup.controllers").is_file():
        missing("a Kubernetes node needs cgroups, and none are mounted at /sys/fs/cgroup")
    absent = {package for program, package in DEBIAN.items() if shutil.which(program) is None}
    if not (NETWORK_PLUGINS / "bridge").exists():
        absent.add("containernetworking-plugins")
    if absent:
        missing(f"no Kubernetes node without: apt install {' '.join(sorted(absent))}")


def version() -> str:
    """The version of Kubernetes that go.mod names, for example v1.34.4."""
    named = re.search(r"^\tk8s\.io/kubernetes (v\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    assert named, "go.mod names no k8s.io/kubernetes"
    return named[1]


def compiled() -> Path:
    """The folder with the COMPILED programs, built first where the cache has none for this go.mod and Go."""
    go = find_go()
    said = subprocess.run((go, "version"), capture_output=True, text=True, check=True, timeout=60).stdout
    digest = hashlib.sha256("\n".join((said, *BUILD_FLAGS)).encode())
    for name in ("go.mod", "go.sum"):
        digest.update((MODULE / name).read_bytes())
    folder = cache_folder() / f"kubernetes-{version()}-{digest.hexdigest()[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Two sessions that start at once must not compile the same thing side by side.
    with (folder.parent / "kubernetes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _compile(go, folder)
    return folder


def _compile(go: str, folder: Path) -> None:
    stamps = " ".join(
        f"-X {package}.gitVersion={version()}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    )
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as unfinished:
        command = (go, "build", *BUILD_FLAGS, "-ldflags", f"-s -w {stamps}", "-o", f"{unfinished}/", "tool")
        environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
        try:
            done = subprocess.run(
                command, cwd=MODULE, env=environment, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS
            )
        except subprocess.TimeoutExpired:
            missing(f"no Kubernetes: compiling it took more than {BUILD_SECONDS // 60} minutes")
        if done.returncode:
            missing(f"no Kubernetes: compiling it failed: {done.stderr.strip()[-1500:]}")
        built = Path(unfinished)
        # Go names a program after its module: go.etcd.io/etcd/server/v3.
        (built / "server").rename(built / "etcd")
        built.rename(folder)
        built.mkdir()
