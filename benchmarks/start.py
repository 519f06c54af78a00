"""How long commands take that must not wait for Dagster: those for a disaster, and those that scripts call."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a program, too

import click
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Machine, load, machine, timed, write_section
from homelab_pipelines.backup.stores.directory import DirectoryStore

GOAL_SECONDS = 0.5
HOMELAB = str(Path(sys.executable).parent / "homelab")
PYTHON = "python -c pass"
HEAD = ("command", "median s", "times Python's own start")
INVENTORY = """homelab: benchmark
databases: {main: {kind: postgres, at: {host: 127.0.0.1}}}
backups: {targets: {nas: {directory: nas, keep: {daily: 7}}}}
"""


def commands(folder: Path) -> dict[str, tuple[tuple[str, ...], int]]:
    """What is measured, by its name, with its exit status: Python itself, then commands that find an empty store."""
    store = DirectoryStore(folder / "nas", "nas")
    store.mark()
    (inventory := folder / "homelab.yaml").write_text(INVENTORY)
    homelab = (HOMELAB, "--inventory", str(inventory))
    return {
        PYTHON: ((sys.executable, "-c", "pass"), 0),
        "homelab check": ((*homelab, "check"), 0),
        "homelab backups": ((*homelab, "backups"), 0),
        # There is none, which it says once it has looked: all that a restore loads is loaded by then.
        "homelab restore": ((*homelab, "restore", "main/app", "--new-database", "again"), 1),
    }


def measure(runs: int) -> dict[str, float]:
    """Median seconds of each command, taken in turn; one run of each before that is not counted."""
    with tempfile.TemporaryDirectory(prefix="homelab-benchmark-") as folder:
        found = commands(Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(runs + 1):
            for name, (words, status) in found.items():
                seconds[name].append(timed(words, status=status))
    return {name: round(statistics.median(each[1:]), 3) for name, each in seconds.items()}


def rows(medians: dict[str, float]) -> list[tuple[str, str, str]]:
    """The table under HEAD."""
    return [(name, f"{each:.3f}", f"{each / medians[PYTHON]:.1f}") for name, each in medians.items()]


def markdown(medians: dict[str, float], loaded: float, here: Machine) -> str:
    """The section of the results' file."""
    table = "\n".join(f"| {' | '.join(row)} |" for row in (HEAD, ("---",) * len(HEAD), *rows(medians)))
    return f"{here.date}, {here}; load before the run {loaded:.2f}; goal: under {GOAL_SECONDS} s.\n\n{table}"


@click.command()
@click.option("--runs", default=9, show_default=True, help="How often each command is started.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
@click.option("--results", type=click.Path(path_type=Path), help="Write the table into this Markdown file.")
def main(runs: int, as_json: bool, results: Path | None) -> None:
    """Measure the start of `check`, `backups` and `restore`. Ends with 1 when one takes longer than it may."""
    console = Console(stderr=as_json)
    here, loaded = machine(), load()
    with console.status("starting commands"):
        medians = measure(runs)
    table = Table(*HEAD)
    for row in rows(medians):
        table.add_row(*row)
    console.print(table, f"{here}; {here.date}")
    if as_json:
        click.echo(json.dumps({"median_seconds": medians, "machine": asdict(here)}, indent=1))
    if results is not None:
        write_section(results, f"Start of commands, {here.processor}", markdown(medians, loaded, here))
        console.print(f"written to {results}")
    if slow := [name for name, each in medians.items() if each > GOAL_SECONDS]:
        raise click.ClickException(f"slower than {GOAL_SECONDS} s: {', '.join(slow)}")


if __name__ == "__main__":
    main()
