"""The backup engine as a Dagster resource: it reads the inventory at use, so that no secret stands in a snapshot."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from homelab_pipelines.backup.configured import ConfiguredBackups


class BackupsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """`inventory`: path of homelab.yaml. `home`: the folder of all state."""

    inventory: str
    home: str

    def open(self) -> ConfiguredBackups:
        """The engine's objects as the inventory describes them now. Raises InventoryInvalid."""
        return ConfiguredBackups.read(Path(self.inventory), Path(self.home))
