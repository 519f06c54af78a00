"""`homelab stacks`, and the part of `homelab check` that is about them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from homelab_pipelines.backup.configured import inventory_path
from homelab_pipelines.commands.output import print_json, say, show
from homelab_pipelines.inventory.base import path_from
from homelab_pipelines.inventory.loader import Homelab, load
from homelab_pipelines.inventory.problems import Problem
from homelab_pipelines.migration.reading import mends
from homelab_pipelines.migration.stack import StackInvalid
from homelab_pipelines.migration.stacks import StackRead, read_one, read_stacks
from homelab_pipelines.migration.state import Reason, blockers, data_kept


def check_stacks(inventory: Path, homelab: Homelab) -> tuple[list[Problem], list[str]]:
    """Every mistake in every stack of an inventory, and a line for each stack that only has warnings."""
    problems, notes = list[Problem](), list[str]()
    for read in read_stacks(inventory, homelab):
        problems += read.problems
        if read.stack is not None and read.stack.warnings:
            count = len(read.stack.warnings)
            notes.append(f"stack {read.name}: {count} warning{'s' if count > 1 else ''}; homelab stacks {read.name}")
    return problems, notes


def mends_of_stacks(inventory: Path, homelab: Homelab) -> str:
    """The unified diff of all that is certain to mend in the stacks of an inventory."""
    diffs = []
    for entry in homelab.stacks.values():
        try:
            diffs.append(mends(path_from(inventory.parent, entry.path)))
        except StackInvalid:
            continue  # there is no file; `check` says so
    return "".join(diffs)


def list_stacks(names: tuple[str, ...], as_json: bool) -> int:
    """Print the stacks, or those named, with all that was found; 1 when one of them cannot be read."""
    inventory = inventory_path()
    homelab = load(inventory)
    here = inventory.relative_to(Path.cwd()) if inventory.is_relative_to(Path.cwd()) else inventory
    unknown = sorted(set(names) - set(homelab.stacks))
    chosen = [name for name in homelab.stacks if not names or name in names]
    found = [read_one(here, homelab, name) for name in chosen]
    if as_json:
        print_json([_row(read) for read in found])
    else:
        _show(found, detailed=bool(names))
    for name in unknown:
        say(f"there is no stack '{name}' in {inventory}\n  next: homelab stacks, for all of them")
    if not homelab.stacks:
        say("homelab.yaml has no stacks\n  next: add stacks: {nextcloud: {path: stacks/nextcloud, host: main}}")
    return 1 if unknown or any(read.stack is None for read in found) else 0


def _row(read: StackRead) -> dict[str, Any]:
    """One stack for `--json`."""
    row: dict[str, Any] = {"stack": read.name, "host": read.host, "path": str(read.path)}
    if read.stack is None:
        return {**row, "services": [], "state": None, "why": [], "blockers": [], "warnings": [], "errors": _all(read)}
    kept = data_kept(read.stack)
    return {
        **row,
        "services": sorted(read.stack.model.get("services") or {}),
        "state": _state(kept),
        "why": [_reason(reason) for reason in kept],
        "blockers": [_reason(reason) for reason in blockers(read.stack)],
        "warnings": [asdict(warning) for warning in read.stack.warnings],
        "errors": [],
    }


def _all(read: StackRead) -> list[dict[str, Any]]:
    return [asdict(problem) for problem in read.problems]


def _state(kept: tuple[Reason, ...]) -> str:
    return "stateful" if kept else "stateless"


def _reason(reason: Reason) -> dict[str, Any]:
    place = reason.place
    return {"service": reason.service, "message": reason.message, "file": place.file, "line": place.line}


def _show(found: list[StackRead], detailed: bool) -> None:
    """A table, and below it what keeps stacks from being read; for stacks that were named everything."""
    from rich.table import Table

    if found:
        table = Table("stack", "host", "services", "state", "why", "blockers", "warnings")
        for read in found:
            table.add_row(*_cells(read))
        show(table)
    for read in found:
        for problem in read.problems:
            say(str(problem))
        if detailed and read.stack is not None:
            for reason in (*data_kept(read.stack), *blockers(read.stack)):
                say(f"{reason.place}: {reason.service}: {reason.message}")
            for warning in read.stack.warnings:
                say(str(warning))


def _cells(read: StackRead) -> tuple[str, ...]:
    if read.stack is None:
        return read.name, read.host, "-", "not read", f"mistakes, below: {len(read.problems)}", "-", "-"
    kept = data_kept(read.stack)
    stopping = dict.fromkeys(f"{reason.service}: {reason.message}" for reason in blockers(read.stack))
    return (
        read.name,
        read.host,
        ", ".join(sorted(read.stack.model.get("services") or {})),
        _state(kept),
        "\n".join(dict.fromkeys(f"{reason.service}: {reason.message}" for reason in kept)),
        "\n".join(stopping) or "none",
        str(len(read.stack.warnings)),
    )
