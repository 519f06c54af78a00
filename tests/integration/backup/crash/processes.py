"""Which processes of this machine belong to a worker, or to a server: seen in /proc, not believed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.integration.backup.crash.worker import MARK


@dataclass(frozen=True)
class Process:
    """A live process (no zombie): `command` are its arguments, `folder` is where it works."""

    pid: int
    command: tuple[str, ...]
    folder: str
    mark: str | None

    @property
    def program(self) -> str:
        return Path(self.command[0]).name if self.command else ""

    def kill(self) -> bool:
        """SIGKILL; whether it was still there to be killed."""
        return is_alive(self.pid) and _killed(self.pid)


def processes() -> Iterator[Process]:
    """All processes whose environment and folder we may read."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if not is_alive(int(entry.name)):
                continue
            environment = dict(
                part.split("=", 1)
                for part in (entry / "environ").read_bytes().decode(errors="replace").split("\0")
                if "=" in part
            )
            command = (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
            folder = str((entry / "cwd").readlink())
            yield Process(int(entry.name), tuple(command), folder, environment.get(MARK))


def of_run(run: str, worker: int, scratch: Path) -> list[Process]:
    """The worker, what carries its mark, and what works on a folder below `scratch`: servers get a bare environment."""
    return [
        each
        for each in processes()
        if each.pid == worker
        or each.mark == run
        or each.folder.startswith(f"{scratch}/")
        or any(str(scratch) in word for word in each.command)
    ]


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _killed(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Look until the condition holds. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)


def children(pid: int) -> list[Process]:
    """The live processes that the main thread of `pid` started."""
    try:
        started = {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except (FileNotFoundError, ProcessLookupError):
        return []
    found = []
    for child in started:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            command = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
            if is_alive(child):
                found.append(Process(child, tuple(command), "", None))
    return found
