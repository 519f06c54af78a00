"""`homelab backup` in a terminal: the bar moves while a step runs, although Dagster captures that step's output."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.integration.cli.conftest import HOMELAB, Lab
from tests.integration.house import House

pytestmark = pytest.mark.postgres


class Terminal:
    """A pseudo-terminal and what was written to it so far."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        self.text = ""

    def wait_for(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Read until `pattern` has come."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.text)) is None:
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.text!r}"
            if select.select([self.ours], [], [], 0.2)[0]:
                with suppress(OSError):  # EIO: the program has ended
                    self.text += os.read(self.ours, 65536).decode(errors="replace")
        return found


@contextmanager
def in_a_terminal(folder: Path, *arguments: str) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    """`homelab` whose standard error is a terminal; standard output is none, so only the bar and messages are read."""
    terminal = Terminal()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HOMELAB_", "DAGSTER"))}
    process = subprocess.Popen(
        (HOMELAB, *arguments),
        cwd=folder,
        env={**clean, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=terminal.theirs,
    )
    os.close(terminal.theirs)
    try:
        yield terminal, process
    finally:
        process.kill()
        process.wait()
        os.close(terminal.ours)


def test_bar_of_a_backup_moves_while_a_step_runs_and_shows_its_bytes(lab: Lab, tmp_path: Path) -> None:
    house = House(tmp_path / "house", lab.peer, [lab.photos], {"backups": {"targets": {"usb": None}}})
    with lab.peer.connect(lab.photos) as filler:
        rows = "SELECT n, repeat(md5(n::text), 8) AS word FROM generate_series(1, 200000) AS n"
        filler.execute(f"CREATE TABLE large AS {rows}".encode())
    step = f"database_backup__{lab.photos}"
    try:
        with (
            lab.peer.connect(lab.photos) as locker,
            in_a_terminal(house.folder, "backup", lab.photos) as (bar, process),
        ):
            locker.execute("BEGIN")
            locker.execute("LOCK TABLE item IN ACCESS EXCLUSIVE MODE")
            began = int(bar.wait_for(rf"{step}[^\r\n]*0:00:(\d\d)")[1])
            bar.wait_for(rf"{step}[^\r\n]*0:00:{began + 2:02d}")
            assert process.poll() is None and "succeeded" not in bar.text
            locker.execute("ROLLBACK")
            bar.wait_for(rf"dumping main/{lab.photos}[^\r\n]*[1-9][\d.]*/[\d.]+ MB")
            bar.wait_for("run .* succeeded")
            assert process.wait(30) == 0
    finally:
        with lab.peer.connect(lab.photos) as filler:
            filler.execute("DROP TABLE large")
    logs = [path.read_text() for path in house.home.rglob("*.err")]
    assert logs and not any("nightly_backup: " in text for text in logs), "the bar is not kept in the steps' logs"
