"""Alert delivery as a Dagster resource: addresses are secrets, read at use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg

from homelab_pipelines.inventory.alerts import Alerts
from homelab_pipelines.inventory.loader import load
from homelab_pipelines.inventory.model import Homelab
from homelab_pipelines.inventory.problems import InventoryInvalid
from homelab_pipelines.inventory.secrets import SecretError
from homelab_pipelines.observability.alerts import PingEvent, ping, send_alert


class AlertsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """`inventory`: path of homelab.yaml, whose section `alerts` names the receivers.

    `known`: that section as it was when the definitions were made, references to secrets and no secret. It holds when
    the inventory cannot be read: a mistake in it must not silence the alert about what the mistake broke.
    """

    inventory: str
    known: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it

    @classmethod
    def of(cls, homelab: Homelab, inventory: str) -> AlertsResource:
        """The resource of a homelab that was read from `inventory`."""
        return cls(inventory=inventory, known=homelab.alerts.model_dump(mode="json", exclude_none=True))

    def send(self, title: str, body: str) -> list[str]:
        """Send to every receiver; what failed, as sentences without a secret."""
        alerts, note = self._now()
        folder = Path(self.inventory).parent
        addresses, failures = [], []
        for reference in alerts.to:
            try:
                addresses.append(reference.read(folder))
            except SecretError as error:
                failures.append(str(error))
        return failures + send_alert(addresses, title, f"{body}{note}")

    def ping(self, event: PingEvent, message: str = "") -> str | None:
        """Tell the dead man's switch; what failed, or None."""
        alerts, note = self._now()
        if alerts.ping is None:
            return None
        try:
            return ping(alerts.ping.read(Path(self.inventory).parent), event, f"{message}{note}")
        except SecretError as error:
            return str(error)

    def _now(self) -> tuple[Alerts, str]:
        """Whom to tell, and what else to tell them."""
        try:
            return load(self.inventory).alerts, ""
        except InventoryInvalid as error:
            return Alerts.model_validate(self.known), f"\n\nThe inventory is invalid now:\n{error}"
