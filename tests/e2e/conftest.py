"""`make up` in a copy of the working tree, as a stranger runs it, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from homelab_pipelines.backup.scratch_folder import default_parent
from homelab_pipelines.demo.server import PASSWORD_FILE, PORT_FILE, remove_demo
from tests.integration.house import REPOSITORY
from tests.peers.ports import free_port

MARK = "HOMELAB_TEST_MARK"
START_SECONDS = 240  # a busy machine of two cores; 30 s on an idle one


@dataclass
class Stranger:
    """A copy of the repository with a state folder and a port of its own."""

    folder: Path
    home: Path
    port: int = field(default_factory=free_port)
    mark: str = field(default_factory=lambda: secrets.token_hex(8))

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOMELAB_", "PG", "DAGSTER"))}
        return {**kept, MARK: self.mark, "PYTHONPATH": str(self.folder), "PORT": str(self.port)}

    def start(self, *command: str, log: str, environment: Mapping[str, str] | None = None) -> Started:
        """Start a command in the copy; its output goes to a file."""
        path = self.folder / log
        with path.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**self.environment(), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Started(process, path)

    def make_up(self, log: str) -> Started:
        """`make up`, with the environment that the tests run in taken for the one that it would make."""
        words = ("make", "-o", ".venv/.synced", "up", f"PORT={self.port}", f"HOMELAB_HOME={self.home}")
        return self.start(*words, log=log)

    def processes(self) -> dict[int, str]:
        """Every process that descends from what was started here, the demo's server too."""
        found = {}
        data = (self.home / "demo/postgres").resolve() / "data"
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                ours = f"{MARK}={self.mark}".encode() in (process / "environ").read_bytes()
                state = (process / "stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX" and (ours or (process / "cwd").readlink() == data):
                    found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def wait_until_gone(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while left := self.processes():
            assert time.monotonic() < deadline, f"still there after {seconds:.0f} s: {left}"
            time.sleep(0.2)

    def taken_ports(self) -> list[int]:
        """Which of its ports something listens on."""
        ports = [self.port, int((self.home / PORT_FILE).read_text())]
        ports.append(int((self.home / "dagster/code-server-port").read_text()))
        return [port for port in ports if listens(port)]

    @property
    def password(self) -> str:
        return (self.home / PASSWORD_FILE).read_text().strip()

    @property
    def identity(self) -> str:
        return (self.home / "demo/secrets/age-identity").read_text().strip()


@dataclass
class Started:
    """A command that runs, and the file of its output."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern: str, seconds: float = START_SECONDS) -> re.Match[str]:
        """Wait until the output has `pattern`."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.said)) is None:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.said}"
            assert time.monotonic() < deadline, f"no {pattern!r} after {seconds:.0f} s:\n{self.said}"
            time.sleep(0.1)
        return found

    def interrupt(self) -> None:
        """Ctrl-C in a terminal: every process of the foreground group is told."""
        os.killpg(self.process.pid, signal.SIGINT)


class Watcher:
    """Notes the command line of every process of the machine again and again, as `ps` would show it."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self.seen.add(path.read_bytes())

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def copy_repository(target: Path) -> None:
    """What Git would give a stranger, as it stands now, with this environment in .venv."""
    listed = subprocess.run(
        ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"),
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    ).stdout
    for name in listed.decode().split("\0"):
        if name and (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)
    (target / ".venv").symlink_to(sys.prefix)


@pytest.fixture(scope="module")
def stranger() -> Iterator[Stranger]:
    """A stranger's copy, in a folder that the database server's user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="test-up-", dir=default_parent()))
    folder.chmod(0o755)
    copy_repository(folder)
    made = Stranger(folder, folder / "state")
    yield made
    for pid in made.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    made.wait_until_gone(20)
    remove_demo(made.home)
    shutil.rmtree(folder, ignore_errors=True)
