"""Where a nightly run over empty databases spends its time: the engine alone, split into its steps, and the whole run.

With empty databases nothing is left but what is done for every database, so that the largest part can be named.
"""

from __future__ import annotations

import functools
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a program, too

import click
import psycopg
import pyrage
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Machine, load, machine, write_section
from homelab_pipelines.backup import capture, capture_run, evidence, fan_out, restore, verify
from homelab_pipelines.backup.capture import CaptureOptions, capture_database
from homelab_pipelines.backup.connection import Connection, Direct
from homelab_pipelines.backup.errors import BackupError
from homelab_pipelines.backup.fan_out import Target
from homelab_pipelines.backup.local_server import LocalServer, free_port, persistent_server
from homelab_pipelines.backup.pipeline import Encoding
from homelab_pipelines.backup.programs import installations, server_for
from homelab_pipelines.backup.records import read_backup
from homelab_pipelines.backup.scratch_folder import default_parent
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.backup.unpack import parse_identities
from homelab_pipelines.backup.verify import ScratchChoice, verify_backup
from homelab_pipelines.local_deployment import Deployment, graphql, run_state, running
from homelab_pipelines.schedules.nightly_backup import JOB

# The engine's functions that make a step: where they are looked up, their name, the step. What one calls inside another
# counts for the inner; what runs in another thread is shown apart, for it runs beside the dump.
STEPS: tuple[tuple[ModuleType | type, str, str], ...] = (
    (capture, "connect", "connect"),
    (evidence, "relations", "evidence"),
    (evidence, "lock", "evidence"),
    (evidence, "sequence_values", "evidence"),
    (capture, "_record", "evidence"),
    (capture_run.Run, "store", "pg_dump"),
    (capture_run.Run, "globals", "globals"),
    (capture, "program_versions", "versions"),
    (fan_out.FanOut, "commit", "commit"),
    (capture_run.Run, "finish", "commit"),
    (verify, "scratch_server", "scratch server"),
    (restore, "connect", "connect to scratch"),
    (restore, "spooled", "unpack"),
    (restore, "restore_globals", "restore roles"),
    (restore, "create_database", "create database"),
    (restore, "run_pg_restore", "pg_restore"),
    (restore, "compare_restored", "compare"),
    (restore, "_rename", "rename"),
    (verify, "add_proof", "proof"),
)
# By then Dagster is up: it took 13 s on two cores, 47 s where twenty processes wanted them.
START_SECONDS = 45
CONTEXTS = ("connect", "scratch_server", "spooled")


@dataclass
class Stopwatch:
    """Seconds by step, each second counted once: for the innermost step of the main thread."""

    seconds: dict[str, float] = field(default_factory=dict)
    beside: dict[str, float] = field(default_factory=dict)
    _stack: list[str] = field(default_factory=lambda: ["the rest"])
    _since: float = field(default_factory=time.monotonic)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what happens inside as `name`."""
        if threading.current_thread() is not threading.main_thread():
            started = time.monotonic()
            yield
            self.beside[name] = self.beside.get(name, 0.0) + time.monotonic() - started
            return
        self._count()
        self._stack.append(name)
        try:
            yield
        finally:
            self._count()
            self._stack.pop()

    def restart(self) -> None:
        """What was done until now is not counted."""
        self.seconds, self.beside, self._since = {}, {}, time.monotonic()

    def _count(self) -> None:
        now = time.monotonic()
        self.seconds[self._stack[-1]] = self.seconds.get(self._stack[-1], 0.0) + now - self._since
        self._since = now

    def end(self) -> None:
        """Count what is still open."""
        self._count()


def watch(watch: Stopwatch) -> None:
    """Put the stopwatch around the engine's functions. Raises ClickException when one of them is there no more."""
    for owner, name, step in STEPS:
        original = getattr(owner, name, None)
        if original is None:
            raise click.ClickException(f"{owner.__name__} has no {name} any more: mend STEPS in {Path(__file__).name}")
        timer = _timed_context if name in CONTEXTS else _timed
        setattr(owner, name, timer(watch, step, original))


def _timed(watch: Stopwatch, step: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*arguments: Any, **named: Any) -> Any:
        with watch.step(step):
            return original(*arguments, **named)

    return call


def _timed_context(
    watch: Stopwatch, step: str, original: Callable[..., AbstractContextManager[Any]]
) -> Callable[..., AbstractContextManager[Any]]:
    """Its start and its end are the step, not what is done in between."""

    @contextmanager
    def call(*arguments: Any, **named: Any) -> Iterator[Any]:
        manager = original(*arguments, **named)
        with watch.step(step):
            value = manager.__enter__()
        try:
            yield value
        except BaseException:
            with watch.step(f"{step}: end"):
                if not manager.__exit__(*sys.exc_info()):
                    raise
        else:
            with watch.step(f"{step}: end"):
                manager.__exit__(None, None, None)

    return call


@contextmanager
def empty_databases(major: int, folder: Path, count: int) -> Iterator[tuple[LocalServer, list[str]]]:
    """A server of normal durability with `count` empty databases; all gone when the block ends."""
    with ExitStack() as stack:
        work = Path(tempfile.mkdtemp(prefix="homelab-benchmark-", dir=folder))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        work.chmod(0o711)  # the server's user must reach its folder below
        server = stack.enter_context(
            persistent_server(server_for(major), work / "server", password="only-the-socket-is-used")
        )
        names = [f"empty_{number:02}" for number in range(1, count + 1)]
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            for name in names:
                connection.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
        yield server, names


def engine(server: LocalServer, names: list[str], folder: Path, console: Console) -> dict[str, Any]:
    """Capture and verify every database in turn, as a run does; seconds by step, and for each database."""
    stopwatch = Stopwatch()
    watch(stopwatch)
    identity = pyrage.x25519.Identity.generate()
    identities = parse_identities(str(identity))
    connection = Connection(
        "benchmark", Direct(str(server.socket_dir), server.port, sslmode="disable"), user=server.user
    )
    with tempfile.TemporaryDirectory(prefix="homelab-benchmark-", dir=folder) as root:
        store = DirectoryStore(root, "benchmark")
        options = CaptureOptions(Encoding(3, (str(identity.to_public()),)))
        capturing: list[float] = []
        verifying: list[float] = []
        started = time.monotonic()
        stopwatch.restart()
        for name in names:
            began = time.monotonic()
            with console.status(f"{name}: capture"):
                manifest = capture_database(connection, name, [Target(store)], options).manifest
            capturing.append(time.monotonic() - began)
            with console.status(f"{name}: verify"):
                record = read_backup(store, manifest.source, manifest.id)
                proofs = verify_backup(
                    {"benchmark": (store, record)}, identities, ScratchChoice("local", parent=folder)
                )
            if [proof.result for proof in proofs] != ["equal"]:
                raise click.ClickException(f"{name} was not proven: {proofs}")
            verifying.append(time.monotonic() - began - capturing[-1])
        stopwatch.end()
        total = time.monotonic() - started
    return {
        "databases": len(names),
        "total_seconds": round(total, 3),
        "capture_seconds": [round(each, 3) for each in capturing],
        "verify_seconds": [round(each, 3) for each in verifying],
        "step_seconds": {name: round(each, 3) for name, each in _largest_first(stopwatch.seconds)},
        "beside_the_dump_seconds": {name: round(each, 3) for name, each in _largest_first(stopwatch.beside)},
        "share_not_pg_dump": round(1 - stopwatch.seconds.get("pg_dump", 0.0) / total, 3),
    }


def with_dagster(server: LocalServer, names: list[str], folder: Path, console: Console) -> dict[str, Any]:
    """The nightly job over the same databases with everything up: from the schedule's tick to the end, in seconds."""
    with tempfile.TemporaryDirectory(prefix="homelab-benchmark-", dir=folder) as root:
        home = Path(root, "home")
        store = DirectoryStore(Path(root, "nas"), "nas")
        store.mark()
        (identity := Path(root, "identity")).write_text(str(pyrage.x25519.Identity.generate()))
        identity.chmod(0o600)
        recipient = pyrage.x25519.Identity.from_str(identity.read_text()).to_public()
        # The first full minute by which Dagster is up for certain.
        tick = datetime.fromtimestamp((time.time() + START_SECONDS) // 60 * 60 + 60, UTC)
        inventory = Path(root, "homelab.yaml")
        inventory.write_text(
            f"homelab: benchmark\ntimezone: UTC\ndatabases:\n  main:\n    kind: postgres\n    user: {server.user}\n"
            f"    at: {{socket: {server.socket_dir}, port: {server.port}}}\n    include: [{', '.join(names)}]\n"
            f"backups:\n  encrypt_to: [{recipient}]\n  identity: {{file: {identity}}}\n"
            f"  schedule: '{tick.minute} {tick.hour} * * *'\n"
            f"  targets:\n    nas: {{directory: {store.root}, keep: {{daily: 7}}}}\n"
        )
        deployment = Deployment(inventory, home, free_port())
        with console.status("starting Dagster"), running(deployment) as check:
            if time.time() > tick.timestamp():
                raise click.ClickException("Dagster was not up by the tick: the machine is too busy to measure")
            while (run_id := _run_of_the_schedule(deployment)) is None:
                check()
                time.sleep(0.1)
            queued = time.time()
            begun: float | None = None
            while not (state := run_state(deployment, run_id)).ended:
                if begun is None and state.steps:
                    begun = time.time()
                check()
                time.sleep(0.1)
            ended = time.time()
        if state.status != "SUCCESS":
            raise click.ClickException(f"the run ended with {state.status}")
    begun = begun or ended
    return {
        "tick_to_end_seconds": round(ended - tick.timestamp(), 3),
        "tick_to_queue_seconds": round(queued - tick.timestamp(), 3),
        "queue_to_first_step_seconds": round(begun - queued, 3),
        "steps_seconds": round(ended - begun, 3),
        "steps": len(state.steps),
    }


def _run_of_the_schedule(deployment: Deployment) -> str | None:
    query = """query ($job: String!) { runsOrError(filter: {pipelineName: $job}, limit: 1) {
        ... on Runs { results { runId } } } }"""
    found = graphql(deployment, query, {"job": JOB})["runsOrError"]["results"]
    return str(found[0]["runId"]) if found else None


def rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The table: step, seconds for one database, share of the whole."""
    count, total = found["databases"], found["total_seconds"]
    lines = [
        (name, f"{each / count:.3f}", f"{each / total:.0%}")
        for name, each in found["step_seconds"].items()
        if each / total >= 0.005
    ]
    lines += [(f"({name}, beside the dump)", f"{each / count:.3f}", "") for name, each in _beside(found)]
    return [*lines, ("all", f"{total / count:.3f}", "100%")]


def markdown(found: dict[str, Any], here: Machine) -> str:
    """The section of the results' file."""
    head = ("engine alone", "seconds a database", "share")
    table = "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows(found)))
    dump = found["step_seconds"].get("pg_dump", 0.0)
    queued, begun = found["tick_to_queue_seconds"], found["queue_to_first_step_seconds"]
    whole = found["tick_to_end_seconds"]
    return (
        f"From the tick to the end of the nightly run, with everything up: {whole:.1f} s, {found['steps']} steps."
        f" {queued:.1f} s until the run is in the queue, {begun:.1f} s until its process has begun the first step,"
        f" {found['steps_seconds']:.1f} s of steps;"
        f" {1 - dump / whole:.0%} of it is not pg_dump.\n\n"
        f"{here.date}, {here}; PostgreSQL {found['postgresql']}; {found['databases']} empty databases;"
        f" load before the run {found['load_before']}; {found['share_not_pg_dump']:.0%} of the time is not pg_dump.\n\n"
        f"{table}"
    )


@click.command()
@click.option("--databases", "count", default=20, show_default=True, help="How many empty databases.")
@click.option("--major", type=int, help="PostgreSQL version  [default: the newest there is]")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the data goes  [default: /var/tmp]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
@click.option("--results", type=click.Path(path_type=Path), help="Write the table into this Markdown file.")
def main(count: int, major: int | None, folder: Path | None, as_json: bool, results: Path | None) -> None:
    """Measure what is done for every database, however small: capture and verify of empty ones, step by step."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that everything is removed
    console = Console(stderr=as_json)
    here, loaded = machine(), load()
    chosen = major or max((found.major for found in installations() if found.has_server), default=0)
    parent = folder or default_parent()
    try:
        with empty_databases(chosen, parent, count) as (server, names):
            found = engine(server, names, parent, console)
            found |= {"postgresql": server.installation.version, "load_before": round(loaded, 2)}
            found |= with_dagster(server, names, parent, console)
    except BackupError as error:
        raise click.ClickException(str(error)) from error
    table = Table("step", "seconds a database", "share", title=f"Engine alone, {count} empty databases")
    for row in rows(found):
        table.add_row(*row)
    console.print(table, f"{here}; PostgreSQL {found['postgresql']}; {here.date}")
    if as_json:
        click.echo(json.dumps(found | {"machine": asdict(here)}, indent=1))
    if results is not None:
        write_section(results, f"Orchestration, {count} empty databases, {here.processor}", markdown(found, here))
        console.print(f"written to {results}")


def _largest_first(seconds: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(seconds.items(), key=lambda item: -item[1])


def _beside(found: dict[str, Any]) -> list[tuple[str, float]]:
    return list(found["beside_the_dump_seconds"].items())


if __name__ == "__main__":
    main()
