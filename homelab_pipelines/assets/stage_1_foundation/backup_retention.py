"""`backup_retention/<target>`: what is old goes where newer is proven, leftovers go, every choice is explained."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from homelab_pipelines.assets.common import GROUP, asset_kinds, op_name
from homelab_pipelines.assets.errors import failing_clearly
from homelab_pipelines.assets.markdown import table, table_if_any
from homelab_pipelines.backup.prune import Pruned, prune
from homelab_pipelines.backup.retention import explain
from homelab_pipelines.resources.backups import BackupsResource

NOTHING_STOPPED = "nothing_stops_pruning"


def retention_asset(
    target: str, kind: str, upstream: Sequence[dg.AssetKey], owner: str | None, retries: dg.RetryPolicy
) -> dg.AssetsDefinition:
    """The retention of one target, downstream of every backup's proof."""
    key = dg.AssetKey(["backup_retention", target])

    @dg.multi_asset(
        name=op_name("backup_retention", target),
        specs=[
            dg.AssetSpec(
                key,
                deps=list(upstream),
                group_name=GROUP,
                kinds=asset_kinds(kind),
                owners=[owner] if owner else None,
                description=f"What target `{target}` keeps, and why; only after every backup of the run was proven.",
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                NOTHING_STOPPED,
                asset=key,
                description="No backup fell out of its history, stands in the future, or has an unreadable manifest.",
            )
        ],
        retry_policy=retries,
    )
    def backup_retention(context: dg.AssetExecutionContext, backups: BackupsResource) -> Iterator[Any]:
        with failing_clearly():
            configured = backups.open()
            settings = configured.homelab.backups
            done = prune(
                configured.store(target),
                settings.targets[target].keep,
                {name: server.history for name, server in configured.homelab.databases.items()},
                configured.timezone,
                settings.grace,
            )
            swept = configured.sweep_scratch()
        for line in (*done.swept, *swept):
            context.log.info(f"swept {line}")
        yield dg.MaterializeResult(asset_key=key, metadata=_metadata(done))
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=NOTHING_STOPPED,
            passed=not done.alerts,
            description=" ".join(done.alerts) or None,
            metadata={"alerts": len(done.alerts)},
        )

    return backup_retention


def _metadata(done: Pruned) -> dict[str, Any]:
    rows = [
        (source, row["taken_at"], row["action"], row["reason"])
        for source, plan in done.plans.items()
        for row in explain(plan)
    ]
    return {
        "kept": sum(row[2] == "keep" for row in rows),
        "dropped": sum(len(ids) for ids in done.deleted.values()),
        "bytes_freed": done.bytes_freed,
        "swept": len(done.swept),
        **table_if_any("locked", ["not deleted, and why"], [(line,) for line in done.refused]),
        "decisions": table(["source", "taken at", "action", "why"], rows),
    }
