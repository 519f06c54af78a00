"""Images made without a registry: a folder becomes one layer of an archive that `ctr images import` reads.

Archives that `docker save` wrote can be imported as well.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

# What a pod's first, empty container runs; its only task is to hold the pod's namespaces.
PAUSE = "homelab.test/pause:1"
BUSYBOX = "homelab.test/busybox:1"


def write_image(archive: Path, name: str, root: Path, command: Sequence[str], user: str = "0:0") -> Path:
    """An image `name` with the files of `root`, in the form of `docker save`, written to `archive`.

    https://github.com/moby/docker-image-spec/blob/main/spec.md, "Combined Image JSON + Filesystem Changeset Format".
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(root, arcname=".")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": list(command), "Env": ["PATH=/bin"], "User": user},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    parts = {
        "config.json": json.dumps(config).encode(),
        "layer.tar": layer.getvalue(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    with tarfile.open(archive, "w") as tar:
        for part, content in parts.items():
            entry = tarfile.TarInfo(part)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive


def write_busybox(folder: Path) -> tuple[Path, Path]:
    """The archives of PAUSE and BUSYBOX, from the machine's own static busybox."""
    root = folder / "busybox"
    for each in ("bin", "tmp", "etc"):
        (root / each).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy(str(shutil.which("busybox")), root / "bin/busybox")
    for applet in ("sh", "cat", "echo", "env", "id", "ls", "nc", "sleep", "true", "false", "wget"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    pause = write_image(folder / "pause.tar", PAUSE, root, ("/bin/busybox", "sleep", "infinity"), "65534:65534")
    return pause, write_image(folder / "busybox.tar", BUSYBOX, root, ("sh",))
