"""`build_definitions(homelab) -> dg.Definitions`: the only place where everything meets."""

from __future__ import annotations

import dagster as dg

from homelab_pipelines.assets.errors import NETWORK_RETRIES
from homelab_pipelines.assets.stage_1_foundation.backup_retention import retention_asset
from homelab_pipelines.assets.stage_1_foundation.database import database_asset
from homelab_pipelines.assets.stage_1_foundation.database_backup import backup_assets, backup_key
from homelab_pipelines.backup.configured import ConfiguredBackups, inventory_path
from homelab_pipelines.backup.layout import Source
from homelab_pipelines.inventory.backups import S3Target
from homelab_pipelines.resources.alerts import AlertsResource
from homelab_pipelines.resources.backups import BackupsResource
from homelab_pipelines.schedules.alerts import alert_sensors
from homelab_pipelines.schedules.nightly_backup import nightly_backup_job, nightly_backup_schedule


def build_definitions(
    configured: ConfiguredBackups, inventory: str, retries: dg.RetryPolicy = NETWORK_RETRIES
) -> dg.Definitions:
    """All definitions of one homelab. `inventory` is the path that resources read again at use."""
    homelab = configured.homelab
    instances = configured.instances()
    sources = {**instances, **{f"globals {name}": Source(name, None) for name in homelab.databases}}
    backups = [backup_assets(instance, source, homelab, retries) for instance, source in sources.items()]
    upstream = [backup_key(instance, source) for instance, source in sources.items()]
    job = nightly_backup_job()
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
        ],
        asset_checks=[check for _, check in backups],
        jobs=[job],
        schedules=[nightly_backup_schedule(homelab, job)],
        sensors=alert_sensors(job, pings=homelab.alerts.ping is not None),
        resources={
            "backups": BackupsResource(inventory=inventory, home=str(configured.home)),
            "alerts": AlertsResource(inventory=inventory),
        },
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The code location: the homelab whose inventory the environment names (HOMELAB_INVENTORY, or ./homelab.yaml)."""
    return build_definitions(ConfiguredBackups.from_environment(), str(inventory_path()))
