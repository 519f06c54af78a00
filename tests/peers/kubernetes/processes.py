"""Programs of the cluster as processes: started so that none outlives this one, waited for, and ended by pid."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")
# The kernel kills the program when we die, however that comes about: a test session that was killed leaves nothing.
DYING_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


class Program:
    """One program with its log, which `start` goes on writing after a `stop`."""

    def __init__(self, name: str, command: tuple[str, ...], log: Path) -> None:
        self.name, self.command, self.log = name, command, log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of what was started last."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; whether it is ready is the caller's to wait for."""
        assert not self.running, f"{self.name} is running already"
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC", "HOME": "/root"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                (*DYING_WITH_US, *self.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd="/",
                start_new_session=True,
            )

    def stop(self, seconds: float = 15) -> None:
        """Ask it to end; kill it after `seconds`."""
        if self._process is not None and self.running:
            self._process.terminate()
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()

    def wait(self, seconds: float) -> None:
        """Wait until it has ended; raises subprocess.TimeoutExpired after `seconds`."""
        if self._process is not None:
            self._process.wait(seconds)

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)

    def tail(self, characters: int = 2500) -> str:
        """The end of its log, for the message of a failure."""
        state = "running" if self.running else f"ended with {self._process and self._process.returncode}"
        try:
            written = self.log.read_text(errors="replace")[-characters:]
        except FileNotFoundError:
            written = "(no log)"
        return f"--- {self.name} ({state}), end of its log:\n{written}"


def wait_until(
    what: str,
    found: Callable[[], Found | None],
    seconds: float,
    diagnostics: Callable[[], str],
    pause: float = 0.1,
) -> Found:
    """What `found` returns once that is true. After `seconds` a TimeoutError that says what was waited for, and why."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := found():
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s\n{diagnostics()}")
        time.sleep(pause)


def only_child(pid: int) -> int | None:
    """The process that a program such as unshare or nsenter forked and waits for, seen from outside."""
    with suppress(OSError, ValueError):
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return None
