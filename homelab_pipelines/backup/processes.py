"""Running a client program whose output is streamed, with its exit status and messages kept."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from homelab_pipelines.backup.connection import Command
from homelab_pipelines.backup.errors import ProgramMissing

_MESSAGE_LIMIT = 8192
_PIPE_BYTES = 1 << 20
# pg_dump writes 4 KiB at a time. A reader that waits for each is woken 250,000 times for a gigabyte; one that lets the
# pipe fill takes a tenth off the whole capture (measured: 10.5 s to 9.2 s for 964 MB on two cores).
_FILLING_SECONDS = 0.003
_WORTH_READING_BYTES = _PIPE_BYTES // 4


class Running:
    """A program whose standard output is being read."""

    def __init__(self, process: subprocess.Popen[bytes], messages: IO[bytes]) -> None:
        self._process = process
        self._messages = messages
        assert process.stdout is not None  # noqa: S101 (it is a pipe)
        self.output: IO[bytes] = process.stdout
        self.pid = process.pid
        self._wide = _widened(process.stdout)

    def read(self, size: int) -> bytes:
        """The next `size` bytes of its output, fewer only at the end."""
        parts: list[bytes] = []
        missing = size
        while missing and (part := os.read(self.output.fileno(), missing)):
            parts.append(part)
            missing -= len(part)
            if missing and self._wide and len(part) < _WORTH_READING_BYTES:
                time.sleep(_FILLING_SECONDS)
        return b"".join(parts)

    def finish(self) -> tuple[int, str]:
        """Wait for the end; the exit status (negative: the signal that ended it) and the last of its messages."""
        status = self._process.wait()
        self._messages.seek(0, 2)
        self._messages.seek(max(0, self._messages.tell() - _MESSAGE_LIMIT))
        return status, self._messages.read().decode(errors="replace").strip()


@contextmanager
def running(command: Command) -> Iterator[Running]:
    """Start `command` and read what it writes; it is ended, if need be killed, when the block is left.

    Raises ProgramMissing when it cannot be started.
    """
    with tempfile.TemporaryFile() as messages:
        try:
            process = subprocess.Popen(
                command.arguments,
                stdin=subprocess.PIPE if command.first_line is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                bufsize=0,
                stderr=messages,
                env=command.full_environment(),
            )
        except OSError as error:
            raise ProgramMissing(f"starting {command.arguments[0]}", str(error), "install it, or check PATH") from error
        try:
            if command.first_line is not None and process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(command.first_line.encode() + b"\n")
                    process.stdin.close()
            yield Running(process, messages)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _widened(pipe: IO[bytes]) -> bool:
    """Give a pipe its full size; whether it has it now. A user beyond the quota of pipe(7) keeps the small one."""
    if not hasattr(fcntl, "F_SETPIPE_SZ"):
        return False
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return bool(fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) >= _PIPE_BYTES)


def describe_exit(status: int, messages: str) -> str:
    """`exit status 1: message`, or `ended by signal 9`."""
    said = f": {messages}" if messages else ""
    return f"ended by signal {-status}{said}" if status < 0 else f"exit status {status}{said}"
