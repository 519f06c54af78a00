"""Our capture and restore against pg_dump and pg_restore, on one generated database, in one run.

`python benchmarks/backup.py --help` says what can be chosen; everything it makes is removed at the end.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a program, too

import click
import psycopg
import pyrage
from rich.console import Console
from rich.table import Table

from benchmarks.data import generate
from benchmarks.measure import Machine, in_own_process, load, machine, timed, write_section
from homelab_pipelines.backup.errors import BackupError
from homelab_pipelines.backup.local_server import LocalServer, persistent_server, scratch_server
from homelab_pipelines.backup.programs import Installation, installations, server_for
from homelab_pipelines.backup.scratch_folder import default_parent

DATABASE = "bench"
JOBS = 2
PREFERRED_MAJOR = 15  # the one whose figures the project's goals come from
ROOM = 8  # times the database: itself and its log, three dumps, the unpacked dump, the restored copy
# What this project promises; ratios of times, and the memory of our own process in MB (10^6 bytes).
GOALS = {"ratio_pg_dump_fc": 0.35, "ratio_stream": 1.4, "peak_mb": 200.0, "ratio_restore": 1.3}

CAPTURE, HASHED = "our capture", "our capture, rows hashed"
STREAM, CUSTOM, FOLDER = "pg_dump -Fc -Z0 >/dev/null", "pg_dump -Fc", f"pg_dump -Fd -j{JOBS}"
RESTORE, BARE = "our restore, rows counted", f"pg_restore -j{JOBS} (of pg_dump -Fc)"
RESTORE_HASHED = "our restore, rows hashed"
# Each goal's ratio: of what to what.
RATIOS = {
    "ratio_pg_dump_fc": (CAPTURE, CUSTOM),
    "ratio_stream": (CAPTURE, STREAM),
    "ratio_pg_dump_fd": (CAPTURE, FOLDER),
    "ratio_stream_hashed": (HASHED, STREAM),
    "ratio_restore": (RESTORE, BARE),
    "ratio_restore_hashed": (RESTORE_HASHED, BARE),
}


@dataclass
class Measured:
    """Every run by name: seconds, bytes it stored, and what our own process said of itself."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    stored_bytes: dict[str, int] = field(default_factory=dict)
    ours: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def peak_mb(self, *names: str) -> float | None:
        """The largest resident size of our process in any of these runs, in MB (10^6 bytes)."""
        peaks = [float(said["peak_bytes"]) for name in names for said in self.ours.get(name, [])]
        return round(max(peaks) / 1e6, 1) if peaks else None

    def ratio(self, one: str, other: str) -> float | None:
        """How many times as long the one takes, by the medians; None when one was not run."""
        if one not in self.seconds or other not in self.seconds:
            return None
        return round(median(self.seconds[one]) / median(self.seconds[other]), 3)


@dataclass
class Bench:
    """The server with the generated database, and the folder for what is made of it."""

    console: Console
    server: LocalServer
    work: Path
    identity: str
    recipient: str
    database_bytes: int = 0
    measured: Measured = field(default_factory=Measured)

    def run(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do one run, show it and note it; `work` gives `seconds`, and perhaps what our process said."""
        with self.console.status(name):
            said = work()
        self.console.print(f"  {name:<36}{said['seconds']:>8.2f} s   load {load():.1f}")
        self.measured.seconds.setdefault(name, []).append(said["seconds"])
        if "peak_bytes" in said:
            self.measured.ours.setdefault(name, []).append(said)
        return said

    def reach(self, server: LocalServer) -> dict[str, Any]:
        """How a process of our own reaches a server."""
        return {"host": str(server.socket_dir), "port": server.port, "user": server.user}

    def program(self, name: str, server: LocalServer, *arguments: str) -> tuple[str, ...]:
        """A PostgreSQL program run against a server."""
        reach = ("--host", str(server.socket_dir), "--port", str(server.port), "--username", server.user)
        return (server.installation.program(name), *reach, *arguments)


def capture(bench: Bench, name: str, hash_limit: int, folder: str = "store") -> dict[str, Any]:
    """One capture of ours into an empty store."""
    store = bench.work / folder
    shutil.rmtree(store, ignore_errors=True)
    task = {"do": "capture", "database": DATABASE, "store": str(store), "hash_limit": hash_limit}
    task |= {"recipients": [bench.recipient], **bench.reach(bench.server)}
    said = bench.run(name, lambda: in_own_process("benchmarks.one_run", task))
    bench.measured.stored_bytes[name] = said["bytes"]
    return {**said, "store": str(store)}


def dump(bench: Bench, name: str, *arguments: str) -> None:
    """One pg_dump, to `dump` in the work folder unless `arguments` name no file."""
    path = bench.work / ("folder" if "--format=directory" in arguments else "dump")
    target = () if name == STREAM else ("--file", str(path))
    if path.is_dir():
        shutil.rmtree(path)
    command = bench.program("pg_dump", bench.server, *arguments, *target, DATABASE)
    bench.run(name, lambda: {"seconds": timed(command)})
    if path.is_dir():
        bench.measured.stored_bytes[name] = sum(file.stat().st_size for file in path.iterdir())
        shutil.rmtree(path)
    elif target:
        bench.measured.stored_bytes[name] = path.stat().st_size


def bare_restore(bench: Bench) -> None:
    """pg_restore of the `pg_dump -Fc` file into a scratch server such as ours uses."""
    with scratch_server(bench.server.installation, bench.work) as scratch:
        _execute(scratch, f"CREATE ROLE {bench.server.user} SUPERUSER", "CREATE DATABASE restored TEMPLATE template0")
        options = ("--exit-on-error", "--jobs", str(JOBS), "--dbname", "restored", str(bench.work / "dump"))
        command = bench.program("pg_restore", scratch, *options)
        bench.run(BARE, lambda: {"seconds": timed(command)})


def our_restore(bench: Bench, name: str, captured: dict[str, Any]) -> None:
    """Read, decrypt, unpack, restore, compare: what a verification does once its scratch server runs."""
    with scratch_server(bench.server.installation, bench.work) as scratch:
        task = {"do": "restore", "source": captured["source"], "id": captured["id"], "identity": bench.identity}
        task |= {"store": captured["store"], "folder": str(bench.work), "jobs": JOBS, **bench.reach(scratch)}
        bench.run(name, lambda: in_own_process("benchmarks.one_run", task))


def measure(bench: Bench, rounds: int, only: str | None) -> None:
    """All runs, in turn; every other round in the opposite order, so that nothing always comes after the same."""
    captures: list[Callable[[], object]] = [
        lambda: capture(bench, CAPTURE, hash_limit=0),
        lambda: dump(bench, STREAM, "--format=custom", "--compress=0"),
        lambda: dump(bench, CUSTOM, "--format=custom"),
        lambda: dump(bench, FOLDER, "--format=directory", f"--jobs={JOBS}"),
        lambda: capture(bench, HASHED, hash_limit=1 << 50),
    ]
    if only != "restore":
        for number in range(rounds):
            bench.console.print(f"capture, round {number + 1} of {rounds}")
            for one in captures if number % 2 == 0 else reversed(captures):
                one()
    if only == "capture":
        return
    bench.console.print("what is restored")
    counted = capture(bench, CAPTURE, hash_limit=0, folder="counted")
    hashed = capture(bench, HASHED, hash_limit=1 << 50, folder="hashed")
    dump(bench, CUSTOM, "--format=custom")
    restores: list[Callable[[], object]] = [
        lambda: our_restore(bench, RESTORE, counted),
        lambda: bare_restore(bench),
        lambda: our_restore(bench, RESTORE_HASHED, hashed),
    ]
    for number in range(rounds):
        bench.console.print(f"restore, round {number + 1} of {rounds}")
        for one in restores if number % 2 == 0 else reversed(restores):
            one()


def summary(bench: Bench, here: Machine, loaded: float) -> dict[str, Any]:
    """Everything measured, as one JSON object; a ratio that was not measured is None."""
    measured = bench.measured
    ratios = {name: measured.ratio(one, other) for name, (one, other) in RATIOS.items()}
    return {
        **ratios,
        "peak_mb": measured.peak_mb(CAPTURE, HASHED),
        "peak_restore_mb": measured.peak_mb(RESTORE, RESTORE_HASHED),
        "database_bytes": bench.database_bytes,
        "seconds": {name: [round(each, 3) for each in runs] for name, runs in measured.seconds.items()},
        "stored_bytes": measured.stored_bytes,
        "ours": measured.ours,
        "load_before": round(loaded, 2),
        "machine": asdict(here),
        "versions": {
            "postgresql": bench.server.installation.version,
            **{name: version(name) for name in ("homelab-pipelines", "zstandard", "pyrage", "psycopg")},
        },
    }


def reached(found: dict[str, Any]) -> dict[str, bool]:
    """Each goal that was measured, and whether it was reached."""
    return {name: found[name] <= goal for name, goal in GOALS.items() if found[name] is not None}


def lines(found: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The table of times: what, median seconds, all runs, bytes stored."""
    rows = []
    for name, runs in found["seconds"].items():
        stored = found["stored_bytes"].get(name)
        all_runs = ", ".join(f"{each:.1f}" for each in runs)
        rows.append((name, f"{median(runs):.2f}", all_runs, f"{stored / 1e6:.0f} MB" if stored else ""))
    return rows


def goal_lines(found: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The table of goals: name, measured, goal, reached."""
    said = {True: "yes", False: "NO"}
    verdict = {name: said[good] for name, good in reached(found).items()}
    measured = {
        name: found[name]
        for name in (*GOALS, "ratio_pg_dump_fd", "ratio_stream_hashed", "ratio_restore_hashed", "peak_restore_mb")
    }
    return [
        (name, f"{value:g}", f"≤ {GOALS[name]:g}" if name in GOALS else "", verdict.get(name, ""))
        for name, value in measured.items()
        if value is not None
    ]


def markdown(found: dict[str, Any], here: Machine) -> str:
    """The section of the results' file."""

    def table(head: tuple[str, ...], rows: list[tuple[str, str, str, str]]) -> str:
        return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))

    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return "\n\n".join(
        (
            f"{here.date}, {here}; {versions}; database of {found['database_bytes'] / 1e9:.2f} GB;"
            f" load before the run {found['load_before']}.",
            table(("measured", "median s", "runs", "stored"), lines(found)),
            table(("goal", "measured", "promised", "reached"), goal_lines(found)),
        )
    )


def show(console: Console, found: dict[str, Any], here: Machine) -> None:
    """Print times and goals."""
    times = Table("", "median s", "runs", "stored", title="Backup and restore")
    for row in lines(found):
        times.add_row(*row)
    goals = Table("", "measured", "promised", "reached", title="Goals")
    for row in goal_lines(found):
        goals.add_row(*row, style="red" if row[3] == "NO" else None)
    console.print(times, goals, f"{here}; PostgreSQL {found['versions']['postgresql']}; {here.date}")


@contextmanager
def prepared(console: Console, major: int | None, folder: Path | None, gigabytes: float) -> Iterator[Bench]:
    """A server of normal durability with the generated database in it; all gone when the block ends."""
    installation = _installation(major)
    parent = folder or default_parent()
    parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(parent).free) < ROOM * gigabytes * 1e9:
        raise click.ClickException(f"{parent} has {free / 1e9:.1f} GB free; {ROOM * gigabytes:.1f} GB are needed")
    identity = pyrage.x25519.Identity.generate()
    with ExitStack() as stack:
        work = Path(tempfile.mkdtemp(prefix="homelab-benchmark-", dir=parent))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        work.chmod(0o711)  # the server's user must reach its folder below
        server = stack.enter_context(
            persistent_server(installation, work / "server", password="only-the-socket-is-used")
        )
        _execute(server, f"CREATE DATABASE {DATABASE} TEMPLATE template0")
        bench = Bench(console, server, work, str(identity), str(identity.to_public()))
        started = time.monotonic()
        with console.status("making the database") as status:
            bench.database_bytes = generate(
                server.dsn(DATABASE), gigabytes, lambda step, share: status.update(f"{share:4.0%} {step}")
            )
        size = f"{bench.database_bytes / 1e9:.2f} GB"
        console.print(f"PostgreSQL {installation.version}, {size} made in {time.monotonic() - started:.0f} s in {work}")
        yield bench


@click.command()
@click.option("--gigabytes", default=1.0, show_default=True, help="Size of the generated database, indexes included.")
@click.option("--rounds", default=2, show_default=True, help="Runs of each kind; the median counts.")
@click.option("--major", type=int, help=f"PostgreSQL version  [default: {PREFERRED_MAJOR}, else the newest there is]")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the data goes  [default: /var/tmp]")
@click.option("--only", type=click.Choice(["capture", "restore"]), help="Measure this half only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
@click.option("--results", type=click.Path(path_type=Path), help="Write the tables into this Markdown file.")
def main(
    gigabytes: float,
    rounds: int,
    major: int | None,
    folder: Path | None,
    only: str | None,
    as_json: bool,
    results: Path | None,
) -> None:
    """Measure our capture and restore against pg_dump and pg_restore. Exit status 1 when a goal is missed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that everything is removed
    console = Console(stderr=as_json)
    here, loaded = machine(), load()
    try:
        with prepared(console, major, folder, gigabytes) as bench:
            measure(bench, rounds, only)
            found = summary(bench, here, loaded)
    except BackupError as error:
        raise click.ClickException(str(error)) from error
    show(console, found, here)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    if results is not None:
        title = f"Backup, {gigabytes:g} GB, PostgreSQL {bench.server.major}, {here.processor}"
        write_section(results, title, markdown(found, here))
        console.print(f"written to {results}")
    if missed := [name for name, good in reached(found).items() if not good]:
        raise click.ClickException(f"missed: {', '.join(missed)}")


def _installation(major: int | None) -> Installation:
    """The server of `major`, else of the preferred major version, else the newest. Raises ProgramMissing."""
    majors = {found.major for found in installations() if found.has_server}
    fallback = PREFERRED_MAJOR if PREFERRED_MAJOR in majors or not majors else max(majors)
    return server_for(major or fallback)


def _execute(server: LocalServer, *statements: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


if __name__ == "__main__":
    main()
