"""Dagster on this machine as child processes: code server, daemon, webserver; all end when this process does."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.resources
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from homelab_pipelines.backup.configured import HOME_VARIABLE, INVENTORY_VARIABLE

HOST = "127.0.0.1"
LOCATION = "homelab_pipelines"
_START_SECONDS = 180.0
_STOP_SECONDS = 15.0


class DeploymentFailed(Exception):
    """A part of the deployment did not start, or ended by itself; the message ends with the last of its log."""


@dataclass(frozen=True)
class Deployment:
    """What runs where. `home` holds all state; `port` and `host` are the webserver's, as one asks it from here."""

    inventory: Path
    home: Path
    port: int = 3000
    host: str = HOST

    @property
    def url(self) -> str:
        """The Dagster UI."""
        return f"http://{self.host}:{self.port}"

    @property
    def dagster_home(self) -> Path:
        """Dagster's own state: dagster.yaml, run and event storage."""
        return self.home / "dagster"

    def environment(self) -> dict[str, str]:
        """What every process of the deployment is given."""
        return {
            **os.environ,
            "DAGSTER_HOME": str(self.dagster_home),
            INVENTORY_VARIABLE: str(self.inventory),
            HOME_VARIABLE: str(self.home),
            "DAGSTER_DISABLE_TELEMETRY": "1",
        }

    def prepare(self) -> None:
        """Write what Dagster reads at start: dagster.yaml (the project's, unless a person put one there)."""
        self.dagster_home.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings = self.dagster_home / "dagster.yaml"
        if not settings.exists():
            shutil.copyfile(_packaged_settings(), settings)


def _packaged_settings() -> Path:
    """deploy/local/dagster.yaml of a checkout; in an installed wheel its copy beside this module."""
    checkout = Path(__file__).parent.parent / "deploy/local/dagster.yaml"
    return checkout if checkout.exists() else Path(str(importlib.resources.files(LOCATION) / "local_dagster.yaml"))


@contextmanager
def only_one(deployment: Deployment) -> Iterator[None]:
    """Hold the folder of state and the port for one `homelab up`. Raises DeploymentFailed when either is taken."""
    deployment.home.mkdir(parents=True, exist_ok=True)
    with state_held(deployment) as lock:
        _expect_free(deployment.port)
        lock.truncate(0)
        lock.write(f"{deployment.url}, process {os.getpid()}\n")
        lock.flush()
        yield


@contextmanager
def state_held(deployment: Deployment) -> Iterator[IO[str]]:
    """Keep every `homelab up` off the folder of state, which must be there. Raises DeploymentFailed when one runs."""
    with _lock_file(deployment).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise DeploymentFailed(
                f"another `homelab up` runs with {deployment.home}: {lock.read().strip() or 'just starting'}\n"
                "  next: end it with Ctrl-C there, or use another folder: make up HOMELAB_HOME=… PORT=…"
            ) from None
        yield lock


def is_up(deployment: Deployment) -> bool:
    """Whether a `homelab up` runs with this folder of state."""
    try:
        with _lock_file(deployment).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _lock_file(deployment: Deployment) -> Path:
    return deployment.home / "up.lock"


@contextmanager
def running(deployment: Deployment) -> Iterator[Callable[[], None]]:
    """Start code server, daemon and webserver and wait until the code location is loaded; end them with the block.

    Gives a function that raises DeploymentFailed when one of them has ended by itself. Raises DeploymentFailed when a
    part does not start.
    """
    deployment.prepare()
    code_port = _code_port(deployment)
    logs = deployment.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    workspace = deployment.dagster_home / "workspace.yaml"
    server = {"host": HOST, "port": code_port, "location_name": LOCATION}
    workspace.write_text(json.dumps({"load_from": [{"grpc_server": server}]}))  # JSON is YAML
    commands = {
        "code-server": (
            "dagster",
            "code-server",
            "start",
            "-m",
            f"{LOCATION}.definitions",
            "-h",
            HOST,
            "-p",
            str(code_port),
        ),
        "daemon": ("dagster-daemon", "run", "-w", str(workspace)),
        "webserver": ("dagster-webserver", "-h", HOST, "-p", str(deployment.port), "-w", str(workspace)),
    }
    children: dict[str, subprocess.Popen[bytes]] = {}

    def check() -> None:
        for name, child in children.items():
            if child.poll() is not None:
                raise DeploymentFailed(
                    f"{name} ended by itself with status {child.returncode}; its log {logs / name}.log ends:\n"
                    + _tail(logs / f"{name}.log")
                )

    try:
        for name, command in commands.items():
            with (logs / f"{name}.log").open("wb") as log:
                children[name] = _start(command, deployment, log)
            if name == "code-server":  # the others give up on a location that does not answer yet, and ask again late
                _wait(lambda: _listens(code_port), check, "the code server does not listen")
        _wait(lambda: is_loaded(deployment), check, "the webserver does not answer, or its code location does not load")
        yield check
    finally:
        _stop(list(children.values()))


def _start(command: tuple[str, ...], deployment: Deployment, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """A child in a session of its own, so that Ctrl-C reaches it through us, in order; it ends when we are killed."""
    from homelab_pipelines.backup.connection import dying_with_parent

    program, *arguments = command
    return subprocess.Popen(
        (*dying_with_parent(), str(Path(sys.executable).parent / program), *arguments),
        env=deployment.environment(),
        cwd=deployment.inventory.parent,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    """End children, webserver first, and whatever they started that is still there."""
    for child in reversed(children):
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.1, deadline - time.monotonic()))
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def is_loaded(deployment: Deployment) -> bool:
    """Whether the webserver answers and has loaded the code location. Raises DeploymentFailed when that failed."""
    query = """{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus locationOrLoadError {
        __typename ... on PythonError { message errorChain { error { message } } } } } } } }"""
    try:
        entries = graphql(deployment, query)["workspaceOrError"]["locationEntries"]
    except (OSError, KeyError):
        return False
    for entry in entries:
        found = entry["locationOrLoadError"]
        if found and found["__typename"] == "PythonError":
            causes = [found["message"], *(link["error"]["message"] for link in found["errorChain"])]
            raise DeploymentFailed("the code location does not load: " + "\n".join(each.strip() for each in causes))
    return any(entry["loadStatus"] == "LOADED" and entry["locationOrLoadError"] for entry in entries)


def reload(deployment: Deployment) -> None:
    """Build the definitions again; daemon and webserver notice by themselves. Raises DeploymentFailed."""
    mutation = """mutation ($name: String!) { reloadRepositoryLocation(repositoryLocationName: $name) { __typename
        ... on WorkspaceLocationEntry { locationOrLoadError { __typename ... on PythonError { message } } }
        ... on PythonError { message } } }"""
    answer = graphql(deployment, mutation, {"name": LOCATION})["reloadRepositoryLocation"]
    error = answer.get("message") or (answer.get("locationOrLoadError") or {}).get("message")
    if error:
        raise DeploymentFailed(f"the code location does not reload: {error}")


def launch(deployment: Deployment, job: str, tags: Mapping[str, str] | None = None) -> str:
    """Put a run of a job into the queue; its id. Raises DeploymentFailed."""
    selector = {"repositoryLocationName": LOCATION, "repositoryName": "__repository__", "jobName": job}
    mutation = """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
        ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
    metadata = {"tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]}
    params = {"selector": selector, "runConfigData": {}, "executionMetadata": metadata}
    answer = graphql(deployment, mutation, {"params": params})["launchRun"]
    if answer["__typename"] != "LaunchRunSuccess":
        raise DeploymentFailed(f"job {job} cannot be launched: {answer.get('message') or answer['__typename']}")
    return str(answer["run"]["runId"])


@dataclass(frozen=True)
class RunState:
    """`status` as Dagster says it; `steps` is the status by its key of each step that began; `planned` are all keys."""

    status: str
    steps: dict[str, str]
    planned: list[str]

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ("SUCCESS", "FAILURE", "CANCELED")


def unfinished_before(deployment: Deployment, moment: datetime) -> bool:
    """Whether there is a run that was under way before `moment` and has not changed since."""
    query = """{ runsOrError(filter: {statuses: [NOT_STARTED, STARTING, STARTED, CANCELING]}) {
        ... on Runs { results { updateTime } } } }"""
    found = graphql(deployment, query)["runsOrError"].get("results", [])
    return any((run["updateTime"] or 0.0) < moment.timestamp() for run in found)


def has_succeeded(deployment: Deployment, job: str) -> bool:
    """Whether a run of a job ever ended well."""
    query = """query ($job: String!) { runsOrError(filter: {pipelineName: $job, statuses: [SUCCESS]}, limit: 1) {
        ... on Runs { results { runId } } } }"""
    return bool(graphql(deployment, query, {"job": job})["runsOrError"].get("results"))


def run_state(deployment: Deployment, run_id: str) -> RunState:
    """How far a run is."""
    query = """query ($id: ID!) { runOrError(runId: $id) { ... on Run { status stepKeysToExecute
        stepStats { stepKey status } } } }"""
    found = graphql(deployment, query, {"id": run_id})["runOrError"]
    steps = {each["stepKey"]: each["status"] for each in found["stepStats"]}
    return RunState(found["status"], steps, found["stepKeysToExecute"] or [])


def graphql(deployment: Deployment, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask the webserver. Raises OSError when it does not answer, DeploymentFailed when it refuses the question."""
    request = urllib.request.Request(  # noqa: S310 (http, to our own webserver)
        f"{deployment.url}/graphql",
        data=json.dumps({"query": query, "variables": variables or {}}).encode(),
        headers={"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as error:
        raise DeploymentFailed(f"{deployment.url} answered {error.code}: {error.read(500).decode()}") from error
    if answer.get("errors"):
        raise DeploymentFailed(f"{deployment.url}: {answer['errors'][0].get('message')}")
    data: dict[str, Any] = answer["data"]
    return data


def _wait(ready: Callable[[], bool], check: Callable[[], None], otherwise: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        check()
        if time.monotonic() > deadline:
            raise DeploymentFailed(f"{otherwise} within {_START_SECONDS:.0f} s")
        time.sleep(0.2)


def _expect_free(port: int) -> None:
    if _listens(port):
        raise DeploymentFailed(
            f"port {port} on {HOST} is taken by another program\n"
            f"  next: end what listens there, or choose another: make up PORT={port + 1}"
        )


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _code_port(deployment: Deployment) -> int:
    """The code server's port: the same at every start, so that Dagster sees the same location, unless it is taken."""
    remembered = deployment.dagster_home / "code-server-port"
    with contextlib.suppress(OSError, ValueError):
        port = int(remembered.read_text())
        if not _listens(port):
            return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    remembered.write_text(str(port))
    return port


def _tail(path: Path, lines: int = 15) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""
