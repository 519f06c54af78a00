"""`homelab convert`: one Compose project as Kubernetes manifests on disk, and what became of each of its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from homelab_pipelines.backup.configured import inventory_path
from homelab_pipelines.commands.output import print_json, say
from homelab_pipelines.inventory.loader import load
from homelab_pipelines.inventory.problems import Problem, did_you_mean
from homelab_pipelines.migration.account import status
from homelab_pipelines.migration.convert import Conversion, convert
from homelab_pipelines.migration.draft import Policy
from homelab_pipelines.migration.ledger import FATES, dotted
from homelab_pipelines.migration.manifests import files, write
from homelab_pipelines.migration.reading import read_stack
from homelab_pipelines.migration.stack import Stack, StackInvalid
from homelab_pipelines.migration.stacks import read_one


def convert_stack(name: str, output: Path, policy: Policy, as_json: bool) -> int:
    """Read, convert and write; 0 when converted, 1 when blocked (written all the same), 2 when invalid (nothing is)."""
    try:
        stack = _read(name)
        conversion = convert(stack, policy)
    except StackInvalid as error:
        for problem in error.problems:
            say(str(problem))
        if as_json:
            print_json(_invalid(name, error.problems))
        return 2
    write(files(conversion), output)
    if as_json:
        print_json(_result(conversion))
    _tell(conversion, output)
    return 1 if conversion.blockers else 0


def _read(name: str) -> Stack:
    """The project at a path; else the stack that homelab.yaml knows by this name."""
    inventory = inventory_path()
    if Path(name).exists() or not inventory.exists():
        return read_stack(Path(name))
    homelab = load(inventory)
    if name not in homelab.stacks:
        known = did_you_mean(name, homelab.stacks) or "homelab stacks, for all of them"
        message = f"there is no such file or folder, nor a stack of this name in {inventory}"
        raise StackInvalid((Problem(name, 0, 0, message, known),))
    return read_one(inventory, homelab, name).sound()


def _result(conversion: Conversion) -> dict[str, Any]:
    entries = [
        {"file": place.file, "line": place.line, "message": f"{dotted(path)}: {decision}"}
        for path, place, decision in conversion.blockers
    ]
    return {
        "stack": conversion.stack.name,
        "status": status(conversion),
        "leaves": conversion.ledger.counts(),
        "objects": len(conversion.objects) + len(conversion.secrets),
        "blockers": entries,
        "errors": [],
    }


def _invalid(name: str, problems: Sequence[Problem]) -> dict[str, Any]:
    counts = dict.fromkeys(("total", *FATES, "unaccounted"), 0)
    found = [asdict(problem) for problem in problems]
    return {"stack": name, "status": "invalid", "leaves": counts, "objects": 0, "blockers": [], "errors": found}


def _tell(conversion: Conversion, output: Path) -> None:
    counts = conversion.ledger.counts()
    classes = ", ".join(f"{counts[fate]} {fate}" for fate in FATES)
    say(f"{conversion.stack.name}: {status(conversion)}; {counts['total']} values: {classes}")
    for path, place, decision in conversion.blockers:
        say(f"{place}: {dotted(path)}: {decision}")
    for requirement in conversion.requirements:
        say(f"the cluster must have: {requirement}")
    for warning in conversion.stack.warnings:
        say(f"warning: {warning}")
    if conversion.blockers:
        say(f"  next: decide what is listed above, and convert again; {output / 'REPORT.md'} has every value")
    else:
        say(f"  next: read {output / 'REPORT.md'}, then kubectl diff -k {output / 'overlays/dev'}")
