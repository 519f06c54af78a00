"""Alert delivery as a Dagster resource: addresses are secrets, read at use."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from homelab_pipelines.inventory.loader import load
from homelab_pipelines.inventory.secrets import SecretError
from homelab_pipelines.observability.alerts import PingEvent, ping, send_alert


class AlertsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """`inventory`: path of homelab.yaml, whose section `alerts` names the receivers."""

    inventory: str

    def send(self, title: str, body: str) -> list[str]:
        """Send to every receiver; what failed, as sentences without a secret."""
        path = Path(self.inventory)
        addresses, failures = [], []
        for reference in load(path).alerts.to:
            try:
                addresses.append(reference.read(path.parent))
            except SecretError as error:
                failures.append(str(error))
        return failures + send_alert(addresses, title, body)

    def ping(self, event: PingEvent, message: str = "") -> str | None:
        """Tell the dead man's switch; what failed, or None."""
        path = Path(self.inventory)
        reference = load(path).alerts.ping
        if reference is None:
            return None
        try:
            return ping(reference.read(path.parent), event, message)
        except SecretError as error:
            return str(error)
