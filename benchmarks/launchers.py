"""What running Dagster costs: from a launch to its first step for each launcher, idle memory of each deployment, and
the load of the code location with 10, 100 and 1,000 databases."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a program, too

import click
import psutil
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Machine, in_own_process, load, machine, pss_bytes, pss_of, write_section
from benchmarks.orchestration import empty_databases
from homelab_pipelines.backup.local_server import free_port
from homelab_pipelines.backup.programs import installations
from homelab_pipelines.backup.scratch_folder import default_parent
from homelab_pipelines.docker_deployment import DockerDeployment, parts, user_id
from homelab_pipelines.local_deployment import Deployment, graphql, is_loaded, launch, run_state, running
from homelab_pipelines.schedules.nightly_backup import JOB

DATABASES = (10, 100, 1_000)
LOAD_SECONDS = 3.0
"""Promised for the largest of these, after the import: until the code server serves, and until it has described all."""
FIRST_STEP_SECONDS = 5.0
"""Promised from the launch of a thin run under Docker to its first step."""
PER_DATABASE = 1.2
"""Growth no worse than linear: with ten times the databases at most ten times the seconds, and this much for noise."""
# What a run does until its first step, by the event that ends each part (DagsterEventType of its GraphQL).
PARTS = (
    ("RUN_STARTING", "in the queue"),
    ("RUN_START", "start of process or container, import, load"),
    ("STEP_START", "plan, resources"),
)
_UNTIL_IDLE = 20.0
KUBECTL = ("kubectl", "--namespace=homelab")
_MEGABYTE = 1_000_000


@dataclass
class Launcher:
    """One deployment that runs: how to ask its webserver, and what each part holds (proportional set size, bytes)."""

    name: str
    web: Deployment
    memory: Callable[[], dict[str, int]] = field(repr=False)


def measure_load(count: int, folder: Path, rounds: int) -> dict[str, float]:
    """Load the code location with `count` databases, each time in a new process; medians."""
    with tempfile.TemporaryDirectory(prefix="homelab-benchmark-", dir=folder) as root:
        inventory = Path(root, "homelab.yaml")
        names = [f"app_{number:04}" for number in range(count)]
        write_inventory(inventory, {"at": {"host": "127.0.0.1"}, "include": names})
        task = {"inventory": str(inventory), "home": root}
        found = [in_own_process("benchmarks.one_load", task) for _ in range(rounds)]
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def write_inventory(path: Path, server: dict[str, Any], **more: Any) -> None:
    """An inventory with one server, a folder beside it as its target, and more sections."""
    (path.parent / "nas").mkdir(exist_ok=True)
    databases = {"main": {"kind": "postgres", **server}}
    backups = {"targets": {"nas": {"directory": str(path.parent / "nas"), "keep": {"last": 2}}}}
    path.write_text(yaml.safe_dump({"homelab": "benchmark", "databases": databases, "backups": backups, **more}))


@contextmanager
def local(folder: Path) -> Iterator[Launcher]:
    """`homelab up`: processes of this machine, SQLite."""
    major = max((found.major for found in installations() if found.has_server), default=0)
    with (
        empty_databases(major, folder, 1) as (server, names),
        tempfile.TemporaryDirectory(prefix="homelab-benchmark-", dir=folder) as root,
    ):
        inventory = Path(root, "homelab.yaml")
        at = {"socket": str(server.socket_dir), "port": server.port}
        write_inventory(inventory, {"at": at, "user": server.user, "include": names})
        deployment = Deployment(inventory, Path(root, "home"), free_port())
        with running(deployment):
            yield Launcher("local", deployment, _of_children)


def _of_children() -> dict[str, int]:
    found: dict[str, int] = {}
    for child in psutil.Process().children():
        command = " ".join(child.cmdline())
        names = {"dagster code-server": "code server", "dagster-daemon": "daemon", "dagster-webserver": "webserver"}
        part = next((part for words, part in names.items() if words in command), None)
        if part is not None:
            found[part] = pss_bytes([child.pid, *(each.pid for each in child.children(recursive=True))])
    return found


@contextmanager
def docker(folder: Path) -> Iterator[Launcher]:
    """`homelab up --docker` on the engine that the command docker reaches; its own storage is what it backs up."""
    with tempfile.TemporaryDirectory(prefix="homelab-benchmark-", dir=folder) as root:
        Path(root).chmod(0o755)
        inventory = Path(root, "homelab.yaml")
        deployment = DockerDeployment(inventory, Path(root, "home"), free_port())
        password = {"file": str(deployment.folder / "secrets/postgres_password")}
        (deployment.folder / "secrets").mkdir(parents=True)
        Path(password["file"]).write_text("only-for-the-benchmark")
        write_inventory(
            inventory,
            {"at": {"host": "storage"}, "user": "dagster", "password": password, "include": ["dagster"]},
            hosts={"storage": {"address": "postgres"}},  # the container's name, which is no address by itself
        )
        os.chown(Path(root, "nas"), user_id(inventory), -1)
        homelab = str(Path(sys.executable).parent / "homelab")
        environment = {**os.environ, "HOMELAB_INVENTORY": str(inventory), "HOMELAB_HOME": str(deployment.home)}
        words = (homelab, "up", "--docker", "--no-run", "--port", str(deployment.port))
        try:
            subprocess.run(words, env=environment, stdout=sys.stderr, check=True)
            yield Launcher("docker", deployment.webserver, lambda: _of_containers(deployment))
        finally:
            # The containers of runs are not Compose's.
            runs = _output("docker", "ps", "--all", "--quiet", "--filter", "label=homelab/role=run").split()
            if runs:
                _output("docker", "rm", "--force", *runs)
            down = deployment.compose("down", "--volumes", "--timeout", "5")
            subprocess.run(down, env=environment, capture_output=True, check=False)


def _of_containers(deployment: DockerDeployment) -> dict[str, int]:
    return {
        part.name: pss_bytes(map(int, _output("docker", "top", part.container, "-eo", "pid").split()[1:]))
        for part in parts(deployment)
    }


@contextmanager
def kubernetes(folder: Path) -> Iterator[Launcher]:
    """What deploy/kubernetes made in the cluster that the command kubectl reaches; its runs are its own nightly job."""
    port = free_port()
    words = (*KUBECTL, "port-forward", "service/homelab-webserver", f"{port}:http")
    deployment = Deployment(folder, folder, port)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as forward:
        try:
            while not _listens(deployment):
                if forward.poll() is not None:
                    raise click.ClickException("kubectl port-forward has ended; next: docs/how-to/run-on-k3s.md")
                time.sleep(0.2)
            yield Launcher("kubernetes", deployment, _of_pods)
        finally:
            forward.terminate()


def _of_pods() -> dict[str, int]:
    """By exec, so that pods of every node count; its own shell is among them, with about 1 MB a pod."""
    found = {}
    for part in ("code", "webserver", "daemon", "postgres"):
        selector = f"--selector=app.kubernetes.io/name=homelab-{part}"
        for pod in _output(*KUBECTL, "get", "pods", selector, "--output=name").split():
            script = "cat /proc/[0-9]*/smaps_rollup 2>/dev/null || true"
            found[part] = pss_of(_output(*KUBECTL, "exec", pod, "--", "sh", "-c", script))
    return found


def _listens(deployment: Deployment) -> bool:
    try:
        return is_loaded(deployment)
    except OSError:
        return False


def _output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


DEPLOYMENTS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Launcher]]] = {
    "local": local,
    "docker": docker,
    "kubernetes": kubernetes,
}
# Whether a deployment that was not asked for by name can be measured here, by a command that succeeds then.
POSSIBLE = {"docker": ("docker", "version"), "kubernetes": (*KUBECTL, "get", "deployment/homelab-webserver")}


def measure_launcher(launcher: Launcher, rounds: int, console: Console) -> dict[str, Any]:
    """Idle memory (proportional set size, bytes) by part, then seconds from launch to first step by part, medians."""
    with console.status(f"{launcher.name}: idle"):
        time.sleep(_UNTIL_IDLE)
        memory = launcher.memory()
    found: list[dict[str, float]] = []
    for number in range(rounds):
        with console.status(f"{launcher.name}: run {number + 1} of {rounds}"):
            run_id = launch(launcher.web, JOB)
            while not (state := run_state(launcher.web, run_id)).ended:
                time.sleep(0.5)
        if state.status != "SUCCESS":
            raise click.ClickException(f"{launcher.name}: the run ended with {state.status}")
        found.append(until_first_step(launcher.web, run_id))
    return {
        "first_step_seconds": [round(sum(each.values()), 2) for each in found],
        "parts_seconds": {part: round(statistics.median(each[part] for each in found), 2) for part in found[0]},
        "memory_bytes": memory,
    }


def until_first_step(web: Deployment, run_id: str) -> dict[str, float]:
    """Seconds of each part of a run until its first step, by the times in its own log."""
    query = """query ($id: ID!) { runOrError(runId: $id) { ... on Run { creationTime } }
        logsForRun(runId: $id) { ... on EventConnection {
            events { ... on MessageEvent { eventType timestamp } } } } }"""
    answer = graphql(web, query, {"id": run_id})
    events = answer["logsForRun"]["events"]
    since, seconds = float(answer["runOrError"]["creationTime"]), {}
    for kind, part in PARTS:
        times = [float(each["timestamp"]) / 1000 for each in events if each["eventType"] == kind]
        seconds[part] = min(times) - since
        since = min(times)
    return seconds


def goals(found: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Each goal: its name, what was measured, what was promised, whether it was reached."""
    served = {int(count): each["definitions_seconds"] for count, each in found["load"].items()}
    described = {int(count): served[int(count)] + each["snapshot_seconds"] for count, each in found["load"].items()}
    most, fewer = max(served), sorted(served)[-2]
    growth = described[most] / described[fewer] / (most / fewer)
    limit = f"< {LOAD_SECONDS:.0f}"
    rows = [
        (f"{most} databases, until served, s", f"{served[most]:.2f}", limit, served[most] < LOAD_SECONDS),
        (f"{most} databases, until described, s", f"{described[most]:.2f}", limit, described[most] < LOAD_SECONDS),
        (f"seconds a database, {most} to {fewer}", f"{growth:.2f}", f"≤ {PER_DATABASE}", growth <= PER_DATABASE),
    ]
    if under := found["launchers"].get("docker"):
        median = statistics.median(under["first_step_seconds"])
        rows.append(("docker: launch to first step, s", f"{median:.1f}", "≤ 5", median <= FIRST_STEP_SECONDS))
    return rows


def sections(found: dict[str, Any]) -> dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """The tables: title, head and rows."""
    loads = [
        (
            count,
            *(f"{each[name]:.2f}" for name in ("import_seconds", "definitions_seconds", "snapshot_seconds")),
            f"{each['snapshot_bytes'] / _MEGABYTE:.2f}",
            f"{each['peak_bytes'] / _MEGABYTE:.0f}",
        )
        for count, each in found["load"].items()
    ]
    starts = [
        (name, f"{statistics.median(each['first_step_seconds']):.1f}", *map(str, each["parts_seconds"].values()))
        for name, each in found["launchers"].items()
    ]
    memory = [
        (name, part, f"{size / _MEGABYTE:.0f}")
        for name, each in found["launchers"].items()
        for part, size in [*each["memory_bytes"].items(), ("all", sum(each["memory_bytes"].values()))]
    ]
    return {
        "Load of the code location": (
            ("databases", "import s", "definitions s", "description s", "description MB", "peak MB"),
            loads,
        ),
        "From launch to first step": (("launcher", "s", *(f"{part} s" for _, part in PARTS)), starts),
        "Idle": (("deployment", "part", "PSS MB"), memory),
        "Goals": (
            ("goal", "measured", "promised", "reached"),
            [(name, measured, promised, "yes" if well else "no") for name, measured, promised, well in goals(found)],
        ),
    }


def markdown(found: dict[str, Any], here: Machine, note: str) -> str:
    """The section of the results' file."""
    text = [f"{here.date}, {here}; load before the run {found['load_before']}."]
    for title, (head, rows) in sections(found).items():
        lines = [head, ("---",) * len(head), *rows]
        text += [f"{title}:", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    return "\n\n".join([*text, note.strip()])


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(DEPLOYMENTS)), help="Only these deployments.")
@click.option("--rounds", default=3, show_default=True, help="How often each is measured.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the data goes  [default: /var/tmp]")
@click.option("--note", default="", help="A paragraph for the results: what the largest part is.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
@click.option("--results", type=click.Path(path_type=Path), help="Write the tables into this Markdown file.")
def main(
    only: tuple[str, ...], rounds: int, folder: Path | None, note: str, as_json: bool, results: Path | None
) -> None:
    """Measure what running Dagster costs. Docker and Kubernetes are left out where there is none, or nothing deployed.

    Under Kubernetes the runs are the nightly job of your own deployment.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that everything is removed
    console = Console(stderr=as_json)
    here, loaded, parent = machine(), load(), folder or default_parent()
    found: dict[str, Any] = {"load_before": round(loaded, 2), "load": {}, "launchers": {}}
    for count in DATABASES:
        with console.status(f"load with {count} databases"):
            found["load"][str(count)] = measure_load(count, parent, rounds)
    for name in only or DEPLOYMENTS:
        if name in POSSIBLE and not only and not _succeeds(POSSIBLE[name]):
            console.print(f"{name} is left out, because this fails: {' '.join(POSSIBLE[name])}")
            continue
        with DEPLOYMENTS[name](parent) as launcher:
            found["launchers"][name] = measure_launcher(launcher, rounds, console)
    for title, (head, rows) in sections(found).items():
        table = Table(*head, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if as_json:
        click.echo(json.dumps(found | {"machine": asdict(here)}, indent=1))
    if results is not None:
        write_section(results, f"Launchers, {here.processor}", markdown(found, here, note))
        console.print(f"written to {results}")
    if not all(reached for *_, reached in goals(found)):
        sys.exit(1)


def _succeeds(words: tuple[str, ...]) -> bool:
    if shutil.which(words[0]) is None:
        return False
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    main()
