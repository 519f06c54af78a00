"""Which process is meant, and whether it still lives; a process number alone says little, for it comes again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """What tells the calling process from all others, as JSON values."""
    pid = os.getpid()
    return {
        "pid": pid,
        "started": started(pid),
        "boot": _boot(),
        "namespace": _namespace(),
    }


def started(pid: int) -> str | None:
    """When the process began, as text that is equal for the same process only; None when there is no such process."""
    if Path("/proc/self/stat").exists():
        try:
            # Field 22, counted after the name in brackets, which may hold anything (proc(5)). A zombie has ended.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else fields[19]
    listed = subprocess.run(("ps", "-o", "lstart=", "-p", str(pid)), capture_output=True, text=True, check=False)
    return listed.stdout.strip() or None


def is_zombie(pid: int) -> bool:
    """Whether the process has ended and waits for a parent to take note. False where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False


def any_works_in(folder: Path) -> bool:
    """Whether any live process has `folder` as its current one. True, to be careful, where there is no /proc."""
    if not Path("/proc/self/cwd").exists():
        return True
    return any(works_in(int(entry.name), folder) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def works_in(pid: int, folder: Path) -> bool:
    """Whether the process lives and its current folder is `folder`; where /proc is missing, whether it was given it."""
    if started(pid) is None:
        return False
    if Path("/proc/self/cwd").exists():
        try:
            return Path(f"/proc/{pid}/cwd").readlink() == folder.resolve()
        except OSError:
            return False
    listed = subprocess.run(("ps", "-o", "command=", "-p", str(pid)), capture_output=True, text=True, check=False)
    return str(folder) in listed.stdout.split()


def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _namespace() -> str | None:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None
