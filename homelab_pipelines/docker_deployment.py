"""Dagster as containers: what `deploy/docker/compose.yaml` needs of one homelab, bringing it up, and what ails it.

Talks to the `docker` command only. What stands in the containers is deploy/Dockerfile's and compose.yaml's.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import re
import secrets
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from homelab_pipelines.inventory.backups import DirectoryTarget
from homelab_pipelines.inventory.base import Section
from homelab_pipelines.inventory.databases import AtContainer, AtPod, AtSocket
from homelab_pipelines.inventory.model import Homelab
from homelab_pipelines.inventory.secrets import SecretReference
from homelab_pipelines.local_deployment import Deployment, DeploymentFailed, graphql, is_loaded
from homelab_pipelines.socket_proxy import launcher_config

IMAGE = "homelab-pipelines:local"
IMAGE_VARIABLE = "HOMELAB_IMAGE"
USER_ID = 10001
"""The image's user, unless homelab.yaml belongs to a person."""
PASSWORD_TARGET = "/run/secrets/postgres_password"  # noqa: S105 (a path; compose puts its secrets there)
_PROJECT = "homelab"
_START_SECONDS = 300.0
_LOG_LINES = 15
_LOG_WIDTH = 400
_CHECKOUT = Path(__file__).parent.parent


@dataclass(frozen=True)
class DockerDeployment:
    """One homelab's containers. `inventory` and `home` are paths of this machine, and the same inside."""

    inventory: Path
    home: Path
    port: int = 3000

    @property
    def folder(self) -> Path:
        """What compose mounts: dagster.yaml, the password's file, and the variables."""
        return self.home / "docker"

    @property
    def webserver(self) -> Deployment:
        """The same, as one asks its webserver."""
        return Deployment(self.inventory, self.home, self.port)

    @property
    def url(self) -> str:
        """The Dagster UI."""
        return self.webserver.url

    def compose(self, *words: str) -> tuple[str, ...]:
        """A `docker compose` command for these containers."""
        local = self.folder / "local.env"
        return (
            *("docker", "compose", "--project-name", _PROJECT, "--env-file", str(self.folder / ".env")),
            *(("--env-file", str(local)) if local.exists() else ()),
            *("--file", str(compose_folder() / "compose.yaml")),
            # Ours, compose.mounts.yaml, and whatever else a person puts there, such as compose.traefik.yaml.
            *(part for path in sorted(self.folder.glob("compose.*.yaml")) for part in ("--file", str(path))),
            *words,
        )


@dataclass(frozen=True)
class Part:
    """A container of the deployment, as `docker compose ps` says it."""

    name: str
    container: str
    state: str
    health: str
    exit_code: int
    restarts: int

    @property
    def failed(self) -> bool:
        """Whether it is not on its way to being well."""
        return self.state in ("exited", "dead") or self.health == "unhealthy"

    def __str__(self) -> str:
        ended = f" with status {self.exit_code}" if self.state in ("exited", "dead", "restarting") else ""
        again = f", started {self.restarts} times again" if self.restarts else ""
        return f"{self.name} is {self.state}{ended}{f', {self.health}' if self.health else ''}{again}"


def compose_folder() -> Path:
    """deploy/docker of a checkout; in an installed wheel its copy beside this module."""
    checkout = _CHECKOUT / "deploy/docker"
    packaged = Path(str(importlib.resources.files("homelab_pipelines") / "deploy_docker"))
    return checkout if (checkout / "compose.yaml").exists() else packaged


# --- what must be there ---------------------------------------------------------------------------------------------


def require_docker() -> Path:
    """The engine's socket on this machine. Raises DeploymentFailed saying what is missing and how to get it."""
    if shutil.which("docker") is None:
        raise DeploymentFailed(
            "the program docker is not installed\n  next: https://docs.docker.com/engine/install/debian/"
        )
    asked = _run("docker", "version", "--format", "{{.Server.Version}}")
    if asked.returncode:
        raise DeploymentFailed(
            f"the Docker Engine does not answer: {_said(asked)}\n"
            "  next: systemctl start docker, and be a member of its group (or root)"
        )
    compose = _run("docker", "compose", "version", "--short")
    major = re.match(r"v?(\d+)\.", compose.stdout.strip())
    if compose.returncode or major is None or int(major[1]) < 2:
        raise DeploymentFailed(
            "docker has no Compose v2 (`docker compose version` does not work)\n"
            "  next: apt install docker-compose-plugin, or https://docs.docker.com/compose/install/linux/"
        )
    address = _run("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}").stdout.strip()
    if not address.startswith("unix://"):
        raise DeploymentFailed(
            f"the Docker Engine is at {address or 'an unknown address'}, not at a socket of this machine\n"
            "  next: run homelab up --docker on the machine that has the engine, without DOCKER_HOST"
        )
    return Path(address.removeprefix("unix://"))


def ensure_image(deployment: DockerDeployment) -> str:
    """The image to run: the one HOMELAB_IMAGE names, else one built from this checkout. Raises DeploymentFailed."""
    chosen = os.environ.get(IMAGE_VARIABLE)
    if chosen:
        if _run("docker", "image", "inspect", chosen).returncode:
            raise DeploymentFailed(
                f"the engine has no image {chosen}, which {IMAGE_VARIABLE} names\n"
                f"  next: docker pull {chosen}, or unset {IMAGE_VARIABLE} to build it from a checkout"
            )
        return chosen
    if not (_CHECKOUT / "deploy/Dockerfile").exists():
        raise DeploymentFailed(
            "the image is built from a checkout of the repository, and this is an installed package\n"
            f"  next: build it there with docker build -f deploy/Dockerfile, and set {IMAGE_VARIABLE}"
        )
    arguments = {"USER_ID": str(user_id(deployment.inventory)), **_revision()}
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    dockerfile = str(_CHECKOUT / "deploy/Dockerfile")
    # Not through compose: from its version 5 on that needs buildx, which Debian's own docker.io does not have.
    built = subprocess.run(
        ("docker", "build", "--file", dockerfile, "--tag", IMAGE, *words, str(_CHECKOUT)), check=False
    )
    if built.returncode:
        raise DeploymentFailed(
            f"docker build of {dockerfile} ended with status {built.returncode}; why stands above\n"
            f"  next: mend it, or name an image that is there in {IMAGE_VARIABLE}"
        )
    return IMAGE


def user_id(inventory: Path) -> int:
    """As whom the containers run: the person whom homelab.yaml belongs to, so that they can read its secrets."""
    return inventory.stat().st_uid or USER_ID


def _revision() -> dict[str, str]:
    """What the image's labels say of this checkout; nothing where it is no Git repository."""
    asked = _run("git", "-C", str(_CHECKOUT), "log", "-1", "--format=%H %cI")
    words = asked.stdout.split()
    return {"REVISION": words[0], "CREATED": words[1]} if asked.returncode == 0 and len(words) == 2 else {}


# --- what the containers are given ----------------------------------------------------------------------------------


def prepare(deployment: DockerDeployment, homelab: Homelab, image: str, socket: Path) -> None:
    """Write what compose.yaml reads.

    Raises DeploymentFailed with everything in the inventory that cannot work from inside a container.
    """
    base = deployment.inventory.parent
    problems = list(_problems(homelab, base))
    if problems:
        raise DeploymentFailed("\n".join([f"{deployment.inventory.name} cannot be used under Docker:", *problems]))
    folder = deployment.folder
    folder.mkdir(parents=True, exist_ok=True)
    _ensure_password(folder)
    outside = _binds(homelab, base)
    wanted = folder / "local.dagster.yaml"
    settings = yaml.safe_load((wanted if wanted.exists() else compose_folder() / "dagster.yaml").read_text())
    try:
        launcher = launcher_config(settings)
    except ValueError as error:
        raise DeploymentFailed(f"{wanted}: {error}\n  next: compare it with {compose_folder()}/dagster.yaml") from error
    volumes = launcher.setdefault("container_kwargs", {}).setdefault("volumes", [])
    volumes.append(f"{folder}/secrets/postgres_password:{PASSWORD_TARGET}:ro")
    volumes += [f"{path}:{path}:{mode}" for path, mode in {base: "ro", **outside}.items()]
    read_only = [f"{path}:{path}:ro" for path, mode in outside.items() if mode == "ro"]
    written = "# Written by `homelab up --docker`; settings of your own go into local.dagster.yaml beside it.\n"
    written += yaml.safe_dump(settings, sort_keys=False)
    variables = {
        "HOMELAB_INVENTORY": deployment.inventory,
        "HOMELAB_FOLDER": base,
        "HOMELAB_DOCKER_FOLDER": folder,
        IMAGE_VARIABLE: image,
        "PORT": deployment.port,
        "DOCKER_SOCKET": socket,
        "DOCKER_GID": socket.stat().st_gid,
        "HOMELAB_SETTINGS_DIGEST": hashlib.sha256(written.encode()).hexdigest()[:16],
    }
    files = {
        "dagster.yaml": written,
        "compose.mounts.yaml": yaml.safe_dump({"services": {"code-server": {"volumes": read_only}}}),
        ".env": "".join(f"{name}='{value}'\n" for name, value in variables.items()),
    }
    for name, text in files.items():
        (folder / name).write_text(text)


def _ensure_password(folder: Path) -> None:
    """A password for Dagster's storage, made once. On this machine the folder keeps others out; each container is given
    the file itself, and may read it as whoever it runs as."""
    kept = folder / "secrets"
    kept.mkdir(mode=0o700, exist_ok=True)
    path = kept / "postgres_password"
    if not path.exists():
        aside = path.with_suffix(".new")
        aside.write_text(secrets.token_urlsafe(24))
        aside.chmod(0o444)
        aside.rename(path)


def _binds(homelab: Homelab, base: Path) -> dict[Path, str]:
    """Every path of this machine that the inventory names, with `ro` or `rw`; what lies in its own folder is there."""
    binds: dict[Path, str] = {}
    for _, reference in _references(homelab):
        path = reference.path(base)
        if path is not None and not path.is_relative_to(base):
            binds[path] = "ro"
    for target in homelab.backups.targets.values():
        if isinstance(target, DirectoryTarget):
            binds[target.path(base)] = "rw"
    for server in homelab.databases.values():
        if isinstance(server.at, AtSocket):
            binds[Path(server.at.socket)] = "ro"
        if server.verify.scratch:
            binds[Path(server.verify.scratch)] = "rw"
    return binds


def _problems(homelab: Homelab, base: Path) -> Iterator[str]:
    """What a container cannot do that a process of this machine can; each with the next step."""
    for where, reference in _references(homelab):
        if reference.env is not None:
            yield (
                f"  {where}: {{env: {reference.env}}} would stand in `docker inspect` of every container\n"
                f"    next: write it into a file: {{file: secrets/{reference.env.lower().replace('_', '-')}}}"
            )
        elif (reference.file or "").startswith("~"):
            yield f"  {where}: ~ is another folder in a container\n    next: write the whole path of {reference.file}"
    for name, server in homelab.databases.items():
        if isinstance(server.at, AtContainer):
            container = server.at.container
            yield (
                f"  databases.{name}.at: run containers may not enter other containers with docker exec\n"
                f"    next: docker network connect {_PROJECT} {container};"
                f" then hosts: {{{name}: {{address: {container}}}}} and at: {{host: {name}}}"
            )
        if isinstance(server.at, AtPod):
            yield (
                f"  databases.{name}.at: run containers have no kubeconfig\n"
                "    next: expose the database with a Service of type NodePort or LoadBalancer, and at: {host: …}"
            )
    for path, mode in _binds(homelab, base).items():
        # Docker would make an empty folder of root's in its place, and the backup would go there.
        if not path.exists():
            kind = "folder" if mode == "rw" else "file or folder"
            yield f"  {path}: there is no such {kind} on this machine\n    next: make it, or mount it"
        if ":" in str(path):
            yield f"  {path}: Docker cannot mount a path with a colon in it\n    next: choose another name"


def unreadable(deployment: DockerDeployment, homelab: Homelab, image: str) -> list[str]:
    """Secrets and folders that the containers' user seems to have no permission for, as sentences with the next step.

    Only a warning: access lists and engines that map users are not looked at.
    """
    configured = _run("docker", "image", "inspect", "--format", "{{.Config.User}}", image).stdout.strip()
    user = int(configured.partition(":")[0]) if configured.partition(":")[0].isdigit() else USER_ID
    base = deployment.inventory.parent
    asked = [(path, stat.S_IROTH) for _, each in _references(homelab) if (path := each.path(base)) is not None]
    asked += [(path, stat.S_IWOTH) for path, mode in _binds(homelab, base).items() if mode == "rw"]
    sentences = []
    for path, permission in [(deployment.inventory, stat.S_IROTH), *dict(asked).items()]:
        try:
            found = path.stat()
        except OSError:
            continue  # the inventory's own checks say that it is not there
        owner = permission << 6 if found.st_uid == user else permission << 3 if found.st_gid == user else permission
        if user != 0 and not found.st_mode & owner:
            verb = "read" if permission == stat.S_IROTH else "written to"
            sentences.append(f"{path} cannot be {verb} by user {user} of the containers\n  next: chown {user} {path}")
    return sentences


def _references(section: Section) -> Iterator[tuple[str, SecretReference]]:
    """Every reference to a secret in the inventory, with where it stands."""

    def look(value: Any, where: str) -> Iterator[tuple[str, SecretReference]]:
        if isinstance(value, SecretReference):
            yield where, value
        elif isinstance(value, Section):
            for name in type(value).model_fields:
                yield from look(getattr(value, name), f"{where}.{name}" if where else name)
        elif isinstance(value, dict):
            for name, each in value.items():
                yield from look(each, f"{where}.{name}")
        elif isinstance(value, tuple):
            for number, each in enumerate(value):
                yield from look(each, f"{where}[{number}]")

    return look(section, "")


# --- up and well ----------------------------------------------------------------------------------------------------


def start(deployment: DockerDeployment) -> None:
    """Start every container and wait until all is well. Raises DeploymentFailed naming what is not, with its log."""
    words = deployment.compose("up", "--detach", "--remove-orphans")
    started = subprocess.run(words, check=False, stdin=subprocess.DEVNULL)
    if started.returncode:
        reason = f"docker compose up ended with status {started.returncode}"
        raise DeploymentFailed(diagnosis(reason, [part for part in parts(deployment) if part.failed]))
    before = {part.container: part.restarts for part in parts(deployment)}
    deadline = time.monotonic() + _START_SECONDS
    while missing := _not_yet(deployment):
        found = parts(deployment)
        # Once may be a matter of order; what ends a second time will go on doing so, for ever and ever more slowly.
        failed = [part for part in found if part.failed or part.restarts > before.get(part.container, 0) + 1]
        if failed:
            raise DeploymentFailed(diagnosis(missing, failed))
        if time.monotonic() > deadline:
            raise DeploymentFailed(diagnosis(f"{missing} within {_START_SECONDS:.0f} s", found))
        time.sleep(1.0)


def _not_yet(deployment: DockerDeployment) -> str:
    """What is still missing until runs can be launched; empty when nothing is."""
    try:
        if not is_loaded(deployment.webserver):
            return "the webserver does not answer, or has not loaded the code location"
        silent = silent_daemons(deployment.webserver)
    except OSError as error:
        return f"the webserver does not answer: {error}"
    return f"the daemon gives no sign of life of {', '.join(silent)}" if silent else ""


def silent_daemons(webserver: Deployment) -> list[str]:
    """The parts of Dagster's daemon that should have given a sign of life lately, and have not."""
    query = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"
    statuses = graphql(webserver, query)["instance"]["daemonHealth"]["allDaemonStatuses"]
    return [each["daemonType"] for each in statuses if each["required"] and not each["healthy"]]


def parts(deployment: DockerDeployment) -> list[Part]:
    """Every container of the deployment, running or not."""
    listed = _run(*deployment.compose("ps", "--all", "--format", "json")).stdout
    # One document a line; before Compose 2.21 one list.
    documents = [json.loads(line) for line in listed.splitlines() if line.strip()]
    rows = documents[0] if len(documents) == 1 and isinstance(documents[0], list) else documents
    counted = _run("docker", "inspect", "--format", "{{.Name}} {{.RestartCount}}", *(row["Name"] for row in rows))
    restarts = dict(line.lstrip("/").split() for line in counted.stdout.splitlines())
    return [
        Part(
            row["Service"],
            row["Name"],
            row["State"],
            row.get("Health") or "",
            int(row.get("ExitCode") or 0),
            int(restarts.get(row["Name"], 0)),
        )
        for row in rows
    ]


def diagnosis(reason: str, bad: Sequence[Part]) -> str:
    """A message: the reason, and of every part that is not well its state, its last health check and its log's end."""
    lines = [reason]
    for part in bad:
        lines.append(f"{part}; {_health_said(part.container) or 'its log ends:'}")
        log = _run("docker", "logs", "--tail", str(_LOG_LINES), part.container)
        ending = (log.stdout + log.stderr).splitlines()[-_LOG_LINES:]
        lines += [f"  {line if len(line) <= _LOG_WIDTH else line[:_LOG_WIDTH] + ' …'}" for line in ending]
    names = " ".join(part.name for part in bad)
    follow = f"docker compose --project-name {_PROJECT} logs {names}".rstrip()
    return "\n".join([*lines, f"  next: {follow}; then homelab up --docker again"])


def _health_said(container: str) -> str:
    form = "{{if .State.Health}}{{range .State.Health.Log}}{{println .Output}}{{end}}{{end}}"
    said = _run("docker", "inspect", "--format", form, container).stdout.split("\n")
    last = [line.strip() for line in said if line.strip()][-1:]
    return f"its health check says: {last[0]}; its log ends:" if last else ""


def discover(deployment: DockerDeployment) -> dict[str, list[str]]:
    """Ask the servers for their databases, from where the runs will: inside a container. Raises DeploymentFailed."""
    asked = _run(*deployment.compose("exec", "--no-TTY", "code-server", "homelab", "discover", "--json"))
    try:
        found: dict[str, list[str]] = json.loads(asked.stdout)
    except ValueError:
        found = {}
    if not all(isinstance(names, list) for names in found.values()) or not found:  # what --json says of an error
        raise DeploymentFailed(f"the servers cannot be asked for their databases: {asked.stderr.strip()}")
    return found


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return subprocess.CompletedProcess(words, 127, "", f"{words[0]} is not installed")


def _said(done: subprocess.CompletedProcess[str]) -> str:
    lines: Sequence[str] = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"status {done.returncode}"
