"""The job `nightly_backup` and its schedule: every database observed, backed up and proven; then retention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from homelab_pipelines.inventory.model import Homelab

if TYPE_CHECKING:  # Dagster exports the function that makes one, not its type
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

JOB = "nightly_backup"


def nightly_backup_job() -> UnresolvedAssetJobDefinition:
    """Thin assets run in the run's own process; one that fails does not stop the others."""
    return dg.define_asset_job(
        JOB,
        selection=dg.AssetSelection.key_prefixes("database", "database_backup", "database_globals", "backup_retention"),
        executor_def=dg.in_process_executor,
        description="Back up every database, restore each backup and compare it, then apply retention.",
    )


def nightly_backup_schedule(homelab: Homelab, job: UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition:
    """At the inventory's hour and time zone, on by default."""
    return dg.ScheduleDefinition(
        name="nightly_backup_schedule",
        job=job,
        cron_schedule=homelab.backups.schedule,
        execution_timezone=homelab.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
