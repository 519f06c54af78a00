"""`build_definitions(homelab) -> dg.Definitions`: the only place where everything meets."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence

import dagster as dg

# Dagster's documentation of state that a run's process must share with the code server imports it from here, too.
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType

from homelab_pipelines.assets.errors import NETWORK_RETRIES
from homelab_pipelines.assets.progress import Progress, no_progress
from homelab_pipelines.assets.stage_1_foundation.backup_retention import retention_asset
from homelab_pipelines.assets.stage_1_foundation.compose_stack import compose_stack_asset
from homelab_pipelines.assets.stage_1_foundation.database import database_asset
from homelab_pipelines.assets.stage_1_foundation.database_backup import backup_assets, backup_key
from homelab_pipelines.assets.stage_1_foundation.housekeeping import housekeeping_assets
from homelab_pipelines.assets.stage_4_kubernetes.manifests import manifests_assets
from homelab_pipelines.backup.configured import ConfiguredBackups, inventory_path
from homelab_pipelines.backup.layout import Source
from homelab_pipelines.inventory.backups import S3Target
from homelab_pipelines.resources.alerts import AlertsResource
from homelab_pipelines.resources.backups import BackupsResource
from homelab_pipelines.resources.stacks import StacksResource
from homelab_pipelines.schedules.alerts import alert_sensors
from homelab_pipelines.schedules.housekeeping import housekeeping_job, housekeeping_schedule
from homelab_pipelines.schedules.nightly_backup import nightly_backup_job, nightly_backup_schedule
from homelab_pipelines.schedules.stacks import stacks_sensor

_DATABASES = "databases"
# Definitions are millions of small objects that stay. Looking for garbage at every 700 new ones, as Python does, finds
# none, and is a quarter of the time that a thousand databases take to load.
gc.set_threshold(20_000)


def build_definitions(
    configured: ConfiguredBackups,
    inventory: str,
    retries: dg.RetryPolicy = NETWORK_RETRIES,
    databases: Mapping[str, Sequence[str]] | None = None,
    progress: Progress = no_progress,
) -> dg.Definitions:
    """All definitions of one homelab. `inventory` is the path that resources read again at use.

    `databases`: those of each server, by default those known now. `progress` is told how far a step is.
    """
    homelab = configured.homelab
    known = configured.known_databases() if databases is None else databases
    instances = configured.instances(known)
    sources = {**instances, **{f"globals {name}": Source(name, None) for name in homelab.databases}}
    backups = [
        backup_assets(instance, source, homelab, retries, known.get(source.server, ()))
        for instance, source in sources.items()
    ]
    upstream = [backup_key(instance, source) for instance, source in sources.items()]
    job, tidying = nightly_backup_job(), housekeeping_job()
    return dg.Definitions(
        assets=[
            *(database_asset(instance, source, homelab.owner, retries) for instance, source in instances.items()),
            *(asset for asset, _ in backups),
            *(
                retention_asset(
                    name, "s3" if isinstance(target, S3Target) else "file", upstream, homelab.owner, retries
                )
                for name, target in homelab.backups.targets.items()
            ),
            *housekeeping_assets(homelab),
            *(compose_stack_asset(name, stack.host, homelab.owner) for name, stack in homelab.stacks.items()),
            *(manifests_assets(name, homelab.owner) for name in homelab.stacks),
        ],
        asset_checks=[check for _, check in backups],
        jobs=[job, tidying],
        schedules=[nightly_backup_schedule(homelab, job), housekeeping_schedule(homelab, tidying)],
        sensors=[
            *alert_sensors([job, tidying], pinged=job if homelab.alerts.ping is not None else None),
            *stacks_sensor(homelab),
        ],
        resources={
            "backups": BackupsResource(inventory=inventory, home=str(configured.home)),
            "stacks": StacksResource(inventory=inventory, home=str(configured.home)),
            "alerts": AlertsResource.of(homelab, inventory),
            "progress": progress,
        },
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The code location: the homelab whose inventory the environment names (HOMELAB_INVENTORY, or ./homelab.yaml).

    The process of a run makes definitions anew. It takes the databases of the code server that planned the run: those
    that were found since have no step in it, and a check that looked at them as covered would be blind to that.
    """
    configured, context = ConfiguredBackups.from_environment(), DefinitionsLoadContext.get()
    if context.load_type is DefinitionsLoadType.RECONSTRUCTION and _DATABASES in context.reconstruction_metadata:
        databases = json.loads(context.reconstruction_metadata[_DATABASES])
    else:
        databases = configured.known_databases()
        context.add_to_pending_reconstruction_metadata(_DATABASES, json.dumps(databases))
    return build_definitions(configured, str(inventory_path()), databases=databases)
