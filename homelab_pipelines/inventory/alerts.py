"""The section `alerts`: whom to tell when something fails, and what to ping when it does not."""

from __future__ import annotations

from pydantic import Field

from homelab_pipelines.inventory.base import Items, Section
from homelab_pipelines.inventory.secrets import SecretReference


class Alerts(Section):
    """Where failures are told. Addresses hold tokens, so they are references too."""

    to: Items[SecretReference] = Field(
        default=(), description="apprise addresses (ntfy://…, mailto://…) that are told of failures"
    )
    ping: SecretReference | None = Field(
        default=None, description="URL of a healthchecks-style monitor, called at start, success and failure"
    )
