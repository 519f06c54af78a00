"""What a cluster leaves on the machine outside its own namespaces, and how that is taken away again.

Processes and mounts end with the namespaces that hold them. A folder, control groups and bridges remain, all named
after the cluster: at the end of a session its own are removed, and at the start of one those of sessions that were
killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PREFIX = "homelab-kubernetes-"
PARENT = Path("/var/tmp")
CGROUPS = Path("/sys/fs/cgroup")
CLEAN_SECONDS = 20.0


@contextmanager
def cluster_folder() -> Iterator[Path]:
    """A fresh folder for one cluster; everything of the cluster is gone when the block ends, or an error says what."""
    # The lock on the parent: another session must not take a folder for an abandoned one before it is locked.
    held = ExitStack()
    with _lock(PARENT, fcntl.LOCK_EX):
        for former in PARENT.glob(f"{PREFIX}*"):
            with suppress(BlockingIOError, FileNotFoundError), _lock(former, fcntl.LOCK_EX | fcntl.LOCK_NB):
                remove(former)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PARENT))
        # The kernel gives the lock back when we die: that tells the next session that nobody needs the folder.
        held.enter_context(_lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB))
    with held:
        try:
            yield folder
        finally:
            remove(folder)
    if left := remains(folder):
        raise RuntimeError(f"a test cluster has left on this machine: {', '.join(left)}")


@contextmanager
def _lock(folder: Path, operation: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)


def bridge_name(folder: Path, number: int) -> str:
    """The bridge of the cluster's node `number`; the kernel allows fifteen characters."""
    return f"hk{folder.name.removeprefix(PREFIX)[:8]}{number}"


def make_cgroup(folder: Path, node: str) -> str:
    """The control group of one node, in every hierarchy, as the kubelet wants to find it; the name that it calls it."""
    name = f"/{folder.name}/{node}"
    first_version = not (CGROUPS / "cgroup.controllers").exists()
    hierarchies = [each for each in CGROUPS.iterdir() if each.name != "unified"] if first_version else [CGROUPS]
    for hierarchy in hierarchies:
        if hierarchy.is_symlink() or not hierarchy.is_dir():
            continue
        (hierarchy / name[1:]).mkdir(parents=True)
        # In the first version of cgroups no process can enter a cpuset that has no processors and no memory yet.
        for file in ("cpuset.cpus", "cpuset.mems"):
            if first_version and (hierarchy / file).exists():
                value = (hierarchy / file).read_text()
                for group in (folder.name, name[1:]):
                    (hierarchy / group / file).write_text(value)
    return name


def remains(folder: Path) -> list[str]:
    """Everything of this cluster that is still there, by name."""
    suffix = bridge_name(folder, 0)[:-1]
    listed = subprocess.run(("ip", "-json", "link"), capture_output=True, text=True, check=True, timeout=30).stdout
    found = [f"bridge {link['ifname']}" for link in json.loads(listed or "[]") if link["ifname"].startswith(suffix)]
    found += [f"cgroup {path}" for path in _cgroups(folder)]
    found += [f"folder {folder}"] if folder.exists() else []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(f"process {entry.name}")
    found += [f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines() if folder.name in line]
    return found


def remove(folder: Path) -> None:
    """Take away the bridges, control groups and folder of a cluster whose processes have ended or are ending."""
    for line in remains(folder):
        if line.startswith("bridge "):
            command = ("ip", "link", "delete", line.removeprefix("bridge "))
            subprocess.run(command, capture_output=True, check=False, timeout=30)
    deadline = time.monotonic() + CLEAN_SECONDS
    while groups := _cgroups(folder):
        for group in groups:
            # Busy as long as a killed process in it has not quite ended.
            with suppress(OSError):
                group.rmdir()
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def _cgroups(folder: Path) -> list[Path]:
    """The cluster's control groups, the innermost first, for only an empty one can be removed."""
    roots = [*CGROUPS.glob(f"*/{folder.name}"), *CGROUPS.glob(folder.name)]
    found = [path for root in roots for path in (root, *root.rglob("*")) if path.is_dir()]
    return sorted(found, key=lambda path: len(path.parts), reverse=True)
