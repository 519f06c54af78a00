"""What every benchmark needs: the machine, timed programs, and the file of results. Knows no backup."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Machine:
    """What a time was measured on; `memory` in bytes."""

    cores: int
    processor: str
    memory: int
    system: str
    python: str
    date: str

    def __str__(self) -> str:
        return (
            f"{self.cores} cores ({self.processor}), {self.memory / 2**30:.0f} GiB, {self.system}, Python {self.python}"
        )


def machine() -> Machine:
    """This machine, today (UTC). Cores are those this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    return Machine(cores, _processor(), memory, platform.platform(terse=True), platform.python_version(), date)


def load() -> float:
    """Processes that wanted to run, on average of the last minute; above 1 before a run, do not trust its times."""
    return os.getloadavg()[0]


def peak_bytes() -> int:
    """The largest resident size this process had.

    VmHWM counts from the program's start; ru_maxrss would also hold what the parent had when it forked (getrusage(2)).
    """
    with Path("/proc/self/status").open() as status:
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read())
    if found is None:
        raise SystemExit("/proc/self/status has no VmHWM: peak memory can be measured on Linux only")
    return int(found[1]) * 1024


def pss_bytes(pids: Iterable[int]) -> int:
    """What processes hold together: memory that several share counts once (smaps_rollup in proc_pid_smaps(5))."""
    found = []
    for pid in pids:
        try:
            found.append(Path(f"/proc/{pid}/smaps_rollup").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue  # a health check that has ended since it was listed
    return pss_of("".join(found))


def pss_of(rollups: str) -> int:
    """The bytes in the smaps_rollup of processes, one after the other."""
    return 1024 * sum(map(int, re.findall(r"^Pss:\s+(\d+) kB", rollups, re.MULTILINE)))


def timed(arguments: Sequence[str], environment: Mapping[str, str] | None = None, status: int = 0) -> float:
    """Seconds that a program takes; its output is thrown away. Ends the benchmark at another exit status."""
    started = time.monotonic()
    done = subprocess.run(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    seconds = time.monotonic() - started
    if done.returncode != status:
        raise SystemExit(f"{arguments[0]} ended with {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
    return seconds


def in_own_process(module: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """Run `python -m module` with `task` as JSON on its standard input; the JSON it prints.

    Its memory is then its own, and no run profits from what another has left in the process.
    """
    done = subprocess.run(
        (sys.executable, "-m", module),
        input=json.dumps(task),
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{module} ended with status {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def write_section(results: Path, title: str, body: str) -> None:
    """Put a section into the file of results; one of the same title is replaced, the others stay."""
    text = results.read_text() if results.exists() else "# Results\n"
    heading, *sections = re.split(r"(?m)^(?=## )", text)
    kept = [section.rstrip() for section in sections if section.splitlines()[0] != f"## {title}"]
    results.write_text("\n\n".join([heading.rstrip(), *kept, f"## {title}\n\n{body.strip()}"]) + "\n")


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()
