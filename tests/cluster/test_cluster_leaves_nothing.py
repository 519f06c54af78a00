"""A test cluster leaves nothing on the machine: not when its session ends, and not when its session is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests.peers.kubernetes.leftovers import cluster_folder, remains
from tests.peers.kubernetes.node import KERNEL_SETTINGS
from tests.peers.kubernetes.processes import wait_until
from tests.peers.kubernetes.programs import check_machine, compiled

pytestmark = pytest.mark.kubernetes

SESSION = """
import json, sys
from pathlib import Path
from tests.peers.kubernetes.cluster import running_cluster
from tests.peers.kubernetes.images import BUSYBOX
with running_cluster(Path(sys.argv[1])) as cluster:
    container = {"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sleep", "7777"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sleeps"}, "spec": {"containers": [container]}}
    cluster.apply(json.dumps(pod))
    cluster.wait_for("condition=Ready", "pod/sleeps")
    print(cluster.folder, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["in order", "killed"])
def test_session_that_ends_leaves_nothing(end: str) -> None:
    check_machine()
    settings = kernel_settings()
    session = subprocess.Popen(
        (sys.executable, "-c", SESSION, str(compiled())), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    too_long = threading.Timer(240, session.kill)
    too_long.start()
    try:
        assert session.stdin and session.stdout
        folder = Path(session.stdout.readline().strip())
        assert folder.name, "the session has ended before its pod was ready"
        assert {each.split()[0] for each in remains(folder)} >= {"process", "cgroup", "bridge", "folder"}
        if end == "killed":
            session.send_signal(signal.SIGKILL)
        session.stdin.close()
        session.wait(60)
    finally:
        too_long.cancel()
        session.kill()
    # A killed session takes its processes along. What is no process is taken away by the session after it.
    wait_until("every process of the session ends", lambda: not processes(folder), 20, lambda: str(processes(folder)))
    if end == "killed":
        assert folder.exists()
        with cluster_folder():
            pass
    assert remains(folder) == []
    assert kernel_settings() == settings


def processes(folder: Path) -> list[str]:
    """The processes of the cluster, and the one that its pod started."""
    listed = [process.info for process in psutil.process_iter(["pid", "cmdline"])]
    words = [(info["pid"], info["cmdline"] or []) for info in listed]
    return [f"{pid} {line}" for pid, line in words if line == ["sleep", "7777"] or folder.name in " ".join(line)]


def kernel_settings() -> dict[str, str]:
    """What the kubelet and the network plugins would change."""
    return {name: Path("/proc/sys", name).read_text() for name in KERNEL_SETTINGS}
