"""All stacks of an inventory, each read or with what is wrong with it: one that is broken hides no other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath

from homelab_pipelines.inventory.base import path_from
from homelab_pipelines.inventory.loader import located
from homelab_pipelines.inventory.model import Homelab
from homelab_pipelines.inventory.problems import Finding, Problem
from homelab_pipelines.migration.reading import read_stack
from homelab_pipelines.migration.stack import Stack, StackInvalid


@dataclass(frozen=True)
class StackRead:
    """One entry of `stacks`: the stack, or the problems that keep it from being read."""

    name: str
    host: str
    path: FilePath
    stack: Stack | None
    problems: tuple[Problem, ...] = ()

    def sound(self) -> Stack:
        """The stack. Raises StackInvalid with what keeps it from being read."""
        if self.stack is None:
            raise StackInvalid(self.problems)
        return self.stack


def read_stacks(inventory: FilePath, homelab: Homelab) -> Iterator[StackRead]:
    """Every stack of the inventory at `inventory`, in its order. Raises ProgramMissing without Compose."""
    return (read_one(inventory, homelab, name) for name in homelab.stacks)


def read_one(inventory: FilePath, homelab: Homelab, name: str) -> StackRead:
    """One stack of the inventory at `inventory`. Raises ProgramMissing without Compose."""
    entry = homelab.stacks[name]
    path = path_from(inventory.parent, entry.path)
    if not path.exists():
        return StackRead(name, entry.host, path, None, tuple(located(inventory, [_absent(name)])))
    try:
        return StackRead(name, entry.host, path, read_stack(path, name))
    except StackInvalid as error:
        return StackRead(name, entry.host, path, None, error.problems)


def _absent(name: str) -> Finding:
    hint = "mend the path, which is relative to the folder of homelab.yaml, or copy the Compose files there"
    return Finding(("stacks", name, "path"), "path: there is no such file or folder", hint, about=(("stacks", name),))
