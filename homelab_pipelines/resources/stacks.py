"""The stacks of the inventory as a Dagster resource: read at use, so that the next run sees what was changed."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from homelab_pipelines.inventory.loader import load
from homelab_pipelines.migration.stack import Stack
from homelab_pipelines.migration.stacks import StackRead, read_one


class StacksResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """`inventory`: path of homelab.yaml; `home`: folder of state, where manifests are written."""

    inventory: str
    home: str

    def read(self, name: str) -> StackRead:
        """One stack as its files are now, or what keeps it from being read. Raises InventoryInvalid, ProgramMissing."""
        path = Path(self.inventory)
        return read_one(path, load(path), name)

    def stack(self, name: str) -> Stack:
        """One stack as its files are now. Raises StackInvalid with what keeps it from being read."""
        return self.read(name).sound()

    def manifests(self, name: str) -> Path:
        """The folder that the manifests of a stack are written to."""
        return Path(self.home, "manifests", name)
