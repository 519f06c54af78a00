"""One running PostgreSQL server: started so that it ends with the process that started it, waited for, and stopped.

Which cluster it serves, and for what, is local_server's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from psycopg.conninfo import make_conninfo

from homelab_pipelines.backup import process_identity
from homelab_pipelines.backup.os_user import LocalServerFailed, OsUser, bare_environment
from homelab_pipelines.backup.programs import Installation

READY_SECONDS = 60.0
STOP_SECONDS = 60.0

# Becomes the server: gives up root, asks the kernel for a signal at its parent's death, then turns into postgres, so
# that the process we started is the server itself. The order matters: a change of user clears the death signal
# (prctl(2), PR_SET_PDEATHSIG = 1), exec keeps it. A preexec_fn would do the same, but runs Python between fork and exec
# in a process with threads, which may deadlock; setpriv(1) is not on every system.
_BECOME_SERVER = """
import ctypes, os, sys
parent, uid, gid, at_death = (int(word) for word in sys.argv[1:5])
if uid >= 0:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
if sys.platform == "linux":
    if ctypes.CDLL(None, use_errno=True).prctl(1, at_death, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
if os.getppid() != parent:
    sys.exit("the starting process has ended")
os.umask(0o077)
os.execv(sys.argv[5], sys.argv[5:])
"""


def _new_starter() -> None:
    global _starter
    _starter = ThreadPoolExecutor(1, thread_name_prefix="postgres-starter")


# The death signal comes when the *thread* that forked ends. Servers are therefore started from one thread that lives
# exactly as long as the process, whichever thread of a pool asked for them.
_starter: ThreadPoolExecutor
_new_starter()
os.register_at_fork(after_in_child=_new_starter)


@dataclass(frozen=True)
class LocalServer:
    """A running server. `pid` is the postmaster's; `socket_dir` and `port` are where it listens."""

    socket_dir: Path
    port: int
    user: str
    major: int
    pid: int
    data: Path
    log: Path
    installation: Installation
    _process: subprocess.Popen[bytes] = field(repr=False, compare=False)

    def dsn(self, database: str = "postgres") -> str:
        """A connection string for the superuser through the socket, which only this user and root can reach."""
        return make_conninfo(host=str(self.socket_dir), port=self.port, user=self.user, dbname=database)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the server's log."""
        return _tail(self.log, lines)

    @property
    def alive(self) -> bool:
        """Whether the postmaster is still there."""
        return self._process.poll() is None


@contextmanager
def run_server(
    installation: Installation,
    user: OsUser,
    data: Path,
    sockets: Path,
    port: int,
    superuser: str,
    settings: Mapping[str, str],
    stop_signal: signal.Signals,
    ready_seconds: float = READY_SECONDS,
) -> Iterator[LocalServer]:
    """Serve `data` until the block ends; then, and at the death of this process, the server gets `stop_signal`.

    The log is written to `log` beside `data`. Raises LocalServerFailed with its end when the server does not start.
    """
    log = data.parent / "log"
    options = {"unix_socket_directories": str(sockets), "port": str(port), "logging_collector": "off", **settings}
    command = [installation.program("postgres"), "-D", str(data)]
    command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    process = _start(command, user, log, stop_signal)
    try:
        _wait_until_ready(process, data, log, ready_seconds)
        yield LocalServer(sockets, port, superuser, installation.major, process.pid, data, log, installation, process)
    finally:
        _stop(process, stop_signal)


def _start(command: list[str], user: OsUser, log: Path, at_death: signal.Signals) -> subprocess.Popen[bytes]:
    uid, gid = (user.uid, user.gid) if user.drops else (-1, -1)
    words = [str(word) for word in (os.getpid(), uid, gid, int(at_death))]
    with log.open("ab") as output:
        return _starter.submit(
            subprocess.Popen,
            # -I and -S: no site packages, no variables of ours; 15 ms instead of 40.
            [sys.executable, "-I", "-S", "-c", _BECOME_SERVER, *words, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=bare_environment(),
            cwd="/",
            # Ctrl-C in a terminal goes to the whole process group: the server must outlast our own tidying up.
            start_new_session=True,
        ).result()


def _wait_until_ready(process: subprocess.Popen[bytes], data: Path, log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lines = _pid_file(data)
        # Line 1 is the postmaster's pid, line 8 its state (src/include/utils/pidfile.h).
        if len(lines) >= 8 and lines[0].strip() == str(process.pid) and lines[7].strip() == "ready":
            return
        if process.poll() is not None:
            raise LocalServerFailed(
                f"starting PostgreSQL in {data}",
                f"it ended with status {process.returncode}; the end of its log:\n{_tail(log, 12)}",
            )
        time.sleep(0.01)
    raise LocalServerFailed(
        f"starting PostgreSQL in {data}", f"not ready after {seconds:.0f} s; the end of its log:\n{_tail(log, 12)}"
    )


def _stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    for number in (stop_signal, signal.SIGQUIT, signal.SIGKILL):
        if process.poll() is None:
            # The process exists until we have waited for it, so its number cannot have become another's.
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)


def wait_for_former(data: Path) -> None:
    """A server whose starter was killed a moment ago is still shutting down: give it time."""
    deadline = time.monotonic() + STOP_SECONDS / 4
    while (pid := _server_pid(data)) is not None:
        if time.monotonic() > deadline:
            raise LocalServerFailed(
                f"starting PostgreSQL in {data}",
                f"process {pid} is serving it already",
                f"stop the command that started it, or end it with: kill -INT {pid}",
            )
        time.sleep(0.1)
    _forget_zombie(data)


def _forget_zombie(data: Path) -> None:
    """Remove the pid file of a server that was killed and that nobody reaps, as in a container without an init.

    PostgreSQL takes such a process for a live one and refuses to start. Backends that outlive their postmaster may
    still write to the data, so the file stays as long as any process works in the folder.
    """
    lines = _pid_file(data)
    pid = int(lines[0]) if lines and lines[0].strip().isdigit() else None
    if pid is not None and process_identity.is_zombie(pid) and not process_identity.any_works_in(data):
        (data / "postmaster.pid").unlink(missing_ok=True)


def end_server_of(data: Path) -> None:
    """End the server that still serves `data`, if there is one, at once and without a last checkpoint."""
    for number in (signal.SIGQUIT, signal.SIGKILL):
        pid = _server_pid(data)
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + 10
        while _server_pid(data) is not None and time.monotonic() < deadline:
            time.sleep(0.05)


def _server_pid(data: Path) -> int | None:
    """The postmaster that serves `data`, if there is one: its pid file names a live process that works in `data`."""
    lines = _pid_file(data)
    pid = int(lines[0]) if lines and lines[0].strip().isdigit() else None
    return pid if pid and process_identity.works_in(pid, data) else None


def _pid_file(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return []


def _tail(log: Path, lines: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "(no log)"
