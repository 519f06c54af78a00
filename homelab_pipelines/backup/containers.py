"""PostgreSQL in containers and pods: the image a source runs in, and throw-away servers of the same image."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import IO

from homelab_pipelines.backup.connection import Connection, InContainer, InPod
from homelab_pipelines.backup.errors import BackupError, VerificationImpossible
from homelab_pipelines.backup.local_server import SCRATCH_SUPERUSER
from homelab_pipelines.backup.session import connect

SCRATCH_LABEL = "homelab_pipelines.scratch"
_START_SECONDS = 60.0
# Only a container that never started is left by a killed verification; the next one removes it.
_FORGOTTEN = timedelta(hours=6)
_DOCKER_SECONDS = 120.0
_LOG_BYTES = 4096
# The image's own start, ended when standard input ends. That is held by the docker command, which ends when our process
# does, however that ends; with the first process of a container all others end. The shell gives what it runs in the
# background no standard input, hence the copy.
_WHILE_WE_LIVE = (
    'exec 3<&0; "$@" 3<&- & server=$!; (while read -r line; do :; done; kill -KILL $server) <&3 & wait $server'
)


def image_of(place: InContainer | InPod) -> str | None:
    """The image, by digest where it has one, that a container or pod runs; None when nobody says."""
    if isinstance(place, InPod):
        return _image_of_pod(place)
    try:
        inspected = json.loads(_docker(place, "inspect", "--type", "container", place.container))[0]
        digests = json.loads(_docker(place, "image", "inspect", inspected["Image"]))[0].get("RepoDigests") or []
    except (VerificationImpossible, ValueError, LookupError):
        return None
    return str(digests[0] if digests else inspected["Config"]["Image"])


def _image_of_pod(place: InPod) -> str | None:
    try:
        done = subprocess.run(place.get(), capture_output=True, text=True, timeout=_DOCKER_SECONDS, check=False)
        statuses = json.loads(done.stdout)["status"]["containerStatuses"]
        status = next((each for each in statuses if each["name"] == place.container), statuses[0])
    except (OSError, subprocess.TimeoutExpired, ValueError, LookupError):
        return None
    # By digest, if it came from a registry; a name alone is what somebody loaded into the node.
    return str(status["imageID"] if "@" in status["imageID"] else status["image"])


@contextmanager
def scratch_container(image: str, docker_host: str | None = None) -> Iterator[Connection]:
    """Run a throw-away server of `image` (the official image's conventions) and give a connection to it.

    No port is published: it is reached through `docker exec`. The data is kept in an anonymous volume of the container
    and goes with it. It ends with this process, also when that is killed. Raises VerificationImpossible with the
    container's last lines.
    """
    sweep_scratch_containers(_FORGOTTEN, docker_host)
    place = InContainer(f"homelab-scratch-{secrets.token_hex(6)}", docker_host)
    container = ("--name", place.container, "--label", f"{SCRATCH_LABEL}={int(time.time())}", "--network", "none")
    account = {"POSTGRES_USER": SCRATCH_SUPERUSER, "POSTGRES_DB": "postgres", "POSTGRES_HOST_AUTH_METHOD": "trust"}
    settings = ("fsync=off", "full_page_writes=off", "autovacuum=off", "listen_addresses=")
    _docker(
        place,
        *("create", "--rm", "--interactive", *container),
        *(word for name, value in account.items() for word in ("--env", f"{name}={value}")),
        *("--entrypoint", "sh", image, "-c", _WHILE_WE_LIVE, "sh", *_start_of(place, image)),
        *(word for setting in settings for word in ("-c", setting)),
    )
    connection = Connection(f"scratch of {image}", place, user=SCRATCH_SUPERUSER)
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            (*place.docker(), "start", "--attach", "--interactive", place.container),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us, who end it in our own time
        ) as holder,
    ):
        try:
            _wait(connection, holder, log)
            yield connection
        finally:
            with contextlib.suppress(VerificationImpossible):
                _docker(place, "rm", "--force", "--volumes", place.container)
            holder.kill()


def _start_of(place: InContainer, image: str) -> list[str]:
    """What an image starts, with its own arguments: they may name a library that its extensions must find loaded.

    The image is pulled where it is not there yet.
    """
    with contextlib.suppress(VerificationImpossible):
        return _configured_start(place, image)
    _docker(place, "pull", image)
    return _configured_start(place, image)


def _configured_start(place: InContainer, image: str) -> list[str]:
    config = json.loads(_docker(place, "image", "inspect", image))[0]["Config"]
    return [*(config.get("Entrypoint") or []), *(config.get("Cmd") or ["postgres"])]


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


def _wait(connection: Connection, holder: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Until the final server answers: the official image first runs a temporary one for its set-up scripts."""
    deadline = time.monotonic() + _START_SECONDS
    answered = 0
    while answered < 2:
        try:
            with connect(connection) as session:
                session.rows("SELECT 1 AS one")
            answered += 1
        except BackupError as error:
            answered = 0
            if time.monotonic() > deadline or holder.poll() is not None:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
                raise VerificationImpossible(
                    f"starting a scratch container of {connection.name}",
                    f"{error.why}; its last lines: {log.read().decode(errors='replace').strip()}",
                    "docker run it by hand, or set verify.method of this server in homelab.yaml",
                ) from error
        time.sleep(0.5)


def _docker(place: InContainer, *arguments: str) -> str:
    done = _run_docker(place, *arguments)
    if done.returncode != 0:
        raise VerificationImpossible(
            f"docker {' '.join(arguments[:2])}", done.stderr.strip() or f"exit status {done.returncode}", "docker info"
        )
    return done.stdout


def _run_docker(place: InContainer, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            (*place.docker(), *arguments), capture_output=True, text=True, timeout=_DOCKER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VerificationImpossible("asking Docker", str(error), "is Docker installed and running?") from error
