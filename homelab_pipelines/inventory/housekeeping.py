"""The section `housekeeping`: how long Dagster's own history and finished run workers stay, and how large it may be."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from homelab_pipelines.inventory.backups import Cron
from homelab_pipelines.inventory.base import Section
from homelab_pipelines.inventory.units import Duration, Size

GIB = 1024**3


class Housekeeping(Section):
    """What is kept of Dagster's own history, and when the rest is tidied away."""

    schedule: Cron = Field(
        default="30 4 * * *", description="cron expression (minute hour day month weekday) in the homelab's timezone"
    )
    keep_runs: Duration = Field(
        default=timedelta(days=90),
        description="age at which a run that has ended is deleted, unless an asset's or a check's latest result is its",
    )
    keep_workers: Duration = Field(
        default=timedelta(days=7), description="age at which a finished container or pod of a run is removed"
    )
    storage_limit: Size | None = Field(
        default=5 * GIB, description="size of Dagster's storage with compute logs that raises an alert; null: none"
    )
