"""How commands speak: results on standard output, everything else on standard error; progress in a terminal."""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from homelab_pipelines.inventory.problems import Problem


def print_json(value: Any) -> None:
    """One JSON document on standard output; escaped where the locale cannot write every character."""
    every_character = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=not every_character) + "\n")


def print_json_error(what: str, why: str, next_step: str = "", problems: Sequence[Problem] = ()) -> None:
    """What `--json` prints in place of a result when there is none; the same stands as text on standard error."""
    listed = [asdict(problem) for problem in problems]
    print_json({"error": {"what": what, "why": why, "next": next_step, "problems": listed}})


def refuse(status: int, what: str, why: str, next_step: str, as_json: bool) -> int:
    """Say why nothing was done, on both streams; the exit status."""
    say(f"{what}: {why}\n  next: {next_step}")
    if as_json:
        print_json_error(what, why, next_step)
    return status


def say(text: str) -> None:
    """A line for a person, on standard error."""
    sys.stderr.write(text + "\n")


def show(renderable: Any) -> None:
    """A table or text with markup on standard output; wide where that is no terminal, so that no line is broken."""
    from rich.console import Console  # lazy: 40 ms that --json need not pay

    Console(width=None if sys.stdout.isatty() else 160).print(renderable)


Progress = Callable[[str, int, int], None]


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar in the terminal of standard error while work goes on: bytes where they are known, else the step's name.

    It writes to the terminal that stands behind standard error now: while a step of Dagster's runs, that stream itself
    leads to the step's log.
    """
    if not sys.stderr.isatty():
        yield lambda step, done, expected: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        DownloadColumn(),
        TimeElapsedColumn(),
    )
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding, errors="replace") as terminal:
        # rich would ask the three standard streams how wide they are, of which none may be a terminal by then.
        width = os.get_terminal_size(terminal.fileno()).columns or 80
        console = Console(file=terminal, width=width)
        bars = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
        with bars:
            task = bars.add_task(title, total=None)

            def report(step: str, done: int, expected: int) -> None:
                bars.update(task, description=f"{title}: {step}", completed=done, total=max(done, expected) or None)

            yield report
