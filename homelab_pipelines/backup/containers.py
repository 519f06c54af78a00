"""PostgreSQL in containers: the image a source runs in, and throw-away servers of the same image."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from homelab_pipelines.backup.connection import Connection, InContainer
from homelab_pipelines.backup.errors import BackupError, VerificationImpossible
from homelab_pipelines.backup.local_server import SCRATCH_SUPERUSER
from homelab_pipelines.backup.session import connect

SCRATCH_LABEL = "homelab_pipelines.scratch"
_START_SECONDS = 60.0
# No container ends with the process that started it: what a killed verification left is removed by the next one.
_FORGOTTEN = timedelta(hours=6)
_DOCKER_SECONDS = 120.0


def image_of(place: InContainer) -> str | None:
    """The image, by digest where it has one, that a container runs; None when the engine does not say."""
    try:
        inspected = json.loads(_docker(place, "inspect", "--type", "container", place.container))[0]
        digests = json.loads(_docker(place, "image", "inspect", inspected["Image"]))[0].get("RepoDigests") or []
    except (VerificationImpossible, ValueError, LookupError):
        return None
    return str(digests[0] if digests else inspected["Config"]["Image"])


@contextmanager
def scratch_container(image: str, docker_host: str | None = None) -> Iterator[Connection]:
    """Run a throw-away server of `image` (the official image's conventions) and give a connection to it.

    No port is published: it is reached through `docker exec`. The data is kept in memory-backed anonymous storage of
    the container and goes with it. Raises VerificationImpossible with the container's last lines.
    """
    sweep_scratch_containers(_FORGOTTEN, docker_host)
    name = f"homelab-scratch-{secrets.token_hex(6)}"
    place = InContainer(name, docker_host)
    _docker(
        place,
        "run",
        "--detach",
        "--name",
        name,
        "--label",
        f"{SCRATCH_LABEL}={int(time.time())}",
        "--network",
        "none",
        "--env",
        f"POSTGRES_USER={SCRATCH_SUPERUSER}",
        "--env",
        "POSTGRES_DB=postgres",
        "--env",
        "POSTGRES_HOST_AUTH_METHOD=trust",
        image,
        "postgres",
        "-c",
        "fsync=off",
        "-c",
        "full_page_writes=off",
        "-c",
        "autovacuum=off",
        "-c",
        "listen_addresses=",
    )
    connection = Connection(f"scratch of {image}", place, user=SCRATCH_SUPERUSER)
    try:
        _wait(connection, place)
        yield connection
    finally:
        with contextlib.suppress(VerificationImpossible):
            _docker(place, "rm", "--force", "--volumes", name)


def sweep_scratch_containers(older_than: timedelta, docker_host: str | None = None) -> list[str]:
    """Remove scratch containers that were started longer ago than `older_than`; their names."""
    place = InContainer("", docker_host)
    form = f'{{{{.Names}}}} {{{{.Label "{SCRATCH_LABEL}"}}}}'
    listed = _docker(place, "ps", "--all", "--filter", f"label={SCRATCH_LABEL}", "--format", form)
    removed = []
    for line in listed.splitlines():
        name, _, started = line.partition(" ")
        if time.time() - float(started or 0) > older_than.total_seconds():
            _docker(place, "rm", "--force", "--volumes", name)
            removed.append(name)
    return removed


def _wait(connection: Connection, place: InContainer) -> None:
    """Until the final server answers: the official image first runs a temporary one for its set-up scripts."""
    deadline = time.monotonic() + _START_SECONDS
    answered = 0
    state = ("inspect", "--type", "container", "--format", "{{.State.Running}}", place.container)
    while answered < 2:
        try:
            with connect(connection) as session:
                session.rows("SELECT 1 AS one")
            answered += 1
        except BackupError as error:
            answered = 0
            if time.monotonic() > deadline or _docker(place, *state).strip() != "true":
                raise VerificationImpossible(
                    f"starting a scratch container of {connection.name}",
                    f"{error.why}; its last lines: {_logs(place)}",
                    "docker run it by hand, or set verify.method of this server in homelab.yaml",
                ) from error
        time.sleep(0.5)


def _logs(place: InContainer) -> str:
    done = _run_docker(place, "logs", "--tail", "20", place.container)
    return (done.stdout + done.stderr).strip()


def _docker(place: InContainer, *arguments: str) -> str:
    done = _run_docker(place, *arguments)
    if done.returncode != 0:
        raise VerificationImpossible(
            f"docker {arguments[0]}", done.stderr.strip() or f"exit status {done.returncode}", "docker info"
        )
    return done.stdout


def _run_docker(place: InContainer, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            (*place.docker(), *arguments), capture_output=True, text=True, timeout=_DOCKER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VerificationImpossible("asking Docker", str(error), "is Docker installed and running?") from error
