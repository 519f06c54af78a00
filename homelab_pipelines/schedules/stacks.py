"""The sensor that reads stacks again, and has their conversions follow what they say."""

from __future__ import annotations

import dagster as dg

from homelab_pipelines.inventory.model import Homelab


def stacks_sensor(homelab: Homelab) -> list[dg.AutomationConditionSensorDefinition]:
    """On by default, where there are stacks; when each asset is due stands at the asset (automation_condition)."""
    if not homelab.stacks:
        return []
    chosen = dg.AssetSelection.key_prefixes("compose_stack", "kompose_manifests", "kubernetes_manifests")
    return [
        dg.AutomationConditionSensorDefinition(
            "follow_stacks",
            target=chosen,
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=60,
            description="Reads the Compose files of all stacks every hour, and converts those that say something new.",
        )
    ]
