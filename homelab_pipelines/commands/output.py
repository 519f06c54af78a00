"""How commands speak: results on standard output, everything else on standard error; progress in a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


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
    """A bar on standard error while work goes on: bytes where they are known, else the step's name."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        DownloadColumn(),
        TimeElapsedColumn(),
    )
    # A descriptor of its own: Dagster turns 1 and 2 into a step's log while the step runs, and the bar would go there.
    with (
        os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding) as terminal,
        Progress(
            *columns, console=(console := Console(file=terminal)), transient=True, disable=not console.is_terminal
        ) as bars,
    ):
        task = bars.add_task(title, total=None)

        def report(step: str, done: int, expected: int) -> None:
            bars.update(task, description=f"{title}: {step}", completed=done, total=max(done, expected) or None)

        yield report
