"""`homelab check`: every mistake in homelab.yaml and in the Compose files of its stacks."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from homelab_pipelines.commands.output import print_json, say
from homelab_pipelines.inventory.loader import Homelab, examine, sound_parts
from homelab_pipelines.inventory.problems import Problem
from homelab_pipelines.migration.errors import MigrationError


def check_inventory(inventory: Path, connect: bool, as_json: bool) -> int:
    """Print all mistakes: 2 when there is one, 1 when only what `connect` asks, or Compose itself, cannot be used."""
    (homelab, problems), notes, unusable = examine(inventory), list[str](), list[Problem]()
    if homelab is not None and homelab.stacks:
        # Lazy: an inventory without stacks pays nothing for them.
        from homelab_pipelines.commands.stacks import check_stacks

        try:
            wrong, notes = check_stacks(inventory, homelab)
            problems += wrong
        except MigrationError as error:
            unusable.append(Problem(str(inventory), 0, 0, f"{error.what}: {error.why}", error.next_step))
            if not as_json:
                say(str(error))
    if connect and not problems:
        from homelab_pipelines.commands.connecting import check_connections

        unusable += check_connections(inventory, quiet=as_json)
    if as_json:
        print_json([asdict(problem) for problem in (*problems, *unusable)])
    else:
        _say(inventory, homelab, problems, notes)
        if not problems and not unusable and not connect:
            say(f"{inventory}: no mistakes found")
    return 2 if problems else 1 if unusable else 0


def _say(inventory: Path, homelab: Homelab | None, problems: list[Problem], notes: list[str]) -> None:
    for problem in problems:
        say(str(problem))
    for note in notes:
        say(note)
    if problems and _mends(inventory, homelab):
        say("some of this can be mended in one way only: homelab check --mend prints it as a diff")


def _mends(inventory: Path, homelab: Homelab | None) -> str:
    if homelab is None or not homelab.stacks:
        return ""
    from homelab_pipelines.commands.stacks import mends_of_stacks

    return mends_of_stacks(inventory, homelab)


def print_mends(inventory: Path) -> int:
    """Print the diff of all that is certain to mend; applied it is by who asked, with `patch -p0`."""
    diff = _mends(inventory, sound_parts(inventory))
    sys.stdout.write(diff)
    if not diff:
        say("there is nothing that can be mended in one way only; homelab check says what else is wrong")
    return 0
