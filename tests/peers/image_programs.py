"""kubectl and kompose for images that tests build: compiled as deploy/Dockerfile does, but once a machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from tests.peers import missing
from tests.peers.go import cache_folder, find_go

SOURCES = Path(__file__).parents[2] / "deploy/image/programs"
NAMES = ("kubectl", "kompose")
BUILD_SECONDS = 30 * 60


def compiled() -> Path:
    """The folder with NAMES, kept in the cache of the tests under a digest of their sources."""
    digest = hashlib.sha256()
    for path in sorted(each for each in SOURCES.rglob("*") if each.is_file()):
        digest.update(path.read_bytes())
    folder = cache_folder() / f"image-programs-{digest.hexdigest()[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Two sessions that start at once must not compile the same thing side by side.
    with (folder.parent / "image-programs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as unfinished:
                aside = Path(unfinished) / "programs"
                aside.mkdir()
                words = ("sh", str(SOURCES / "compile"), str(aside), *NAMES)
                environment = {**os.environ, "GO": find_go()}
                done = subprocess.run(
                    words, env=environment, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS
                )
                if done.returncode:
                    missing(f"kubectl and kompose cannot be compiled: {done.stderr.strip()[-1500:]}")
                aside.rename(folder)
    return folder
