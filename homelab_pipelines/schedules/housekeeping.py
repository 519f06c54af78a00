"""The job `housekeeping` and its schedule: finished workers removed, old runs deleted, the storage measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from homelab_pipelines.inventory.model import Homelab

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

JOB = "housekeeping"


def housekeeping_job() -> UnresolvedAssetJobDefinition:
    """In the run's own process: each step asks the storage, and little more."""
    return dg.define_asset_job(
        JOB,
        selection=dg.AssetSelection.key_prefixes("run_workers", "run_history", "instance_storage"),
        executor_def=dg.in_process_executor,
        description="Remove finished containers and pods of runs, delete old runs, and measure Dagster's storage.",
    )


def housekeeping_schedule(homelab: Homelab, job: UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition:
    """At the inventory's hour and time zone, on by default."""
    return dg.ScheduleDefinition(
        name="housekeeping_schedule",
        job=job,
        cron_schedule=homelab.housekeeping.schedule,
        execution_timezone=homelab.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
