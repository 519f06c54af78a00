"""What all assets share: groups, kinds, pools and names."""

from __future__ import annotations

import hashlib
import re

import dagster as dg

from homelab_pipelines.inventory.resources import RunResources
from homelab_pipelines.run_resources import RESOURCES, Resources

GROUP = "stage_1_foundation"


def op_name(kind: str, instance: str) -> str:
    """The name of an asset's step, as the run's page and alerts show it, unique as `kind` and `instance` together are.

    Dagster allows letters, digits and underscores in one; a name with anything else in it ends in a part of its digest.
    """
    plain = re.sub("[^A-Za-z0-9_]", "_", instance)
    digest = hashlib.sha256(instance.encode()).hexdigest()[:6]
    return f"{kind}__{plain}" if plain == instance else f"{kind}__{plain}_{digest}"


def pool(server: str) -> str:
    """The pool that keeps a server from being dumped twice at once (limit 1: deploy/local/dagster.yaml)."""
    return op_name("postgres", server)


def resources_metadata(asked: RunResources) -> dict[str, dg.JsonMetadataValue]:
    """What a launcher reads of an asset: the resources that a run of it needs; nothing where it asks for none."""
    needs = Resources.of(asked).to_json()
    return {RESOURCES: dg.MetadataValue.json(needs)} if needs else {}


def asset_kinds(*kinds: str) -> set[str]:
    """Dagster shows at most three."""
    return set(kinds[:3])
