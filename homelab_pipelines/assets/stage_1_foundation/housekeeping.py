"""`run_workers/<homelab>`, `run_history/<homelab>`, `instance_storage/<homelab>`: Dagster itself kept in order."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from homelab_pipelines.assets.common import GROUP, asset_kinds, op_name
from homelab_pipelines.assets.errors import failing_clearly
from homelab_pipelines.assets.markdown import table_if_any
from homelab_pipelines.backup.readable import readable_bytes
from homelab_pipelines.housekeeping.run_workers import reap
from homelab_pipelines.inventory.housekeeping import Housekeeping
from homelab_pipelines.inventory.model import Homelab
from homelab_pipelines.inventory.units import format_duration
from homelab_pipelines.resources.run_workers import backends

if TYPE_CHECKING:
    from homelab_pipelines.housekeeping.storage_size import StorageSize

EVERY_WORKER = "every_finished_worker_removed"
EVERY_LOG = "every_log_deleted"
BELOW_LIMIT = "below_limit"
_DELIVERABLES = ("run_workers", "run_history", "instance_storage")
_MOST_ROWS = 100
_MOST_NAMED = 5


class Preview(dg.Config):
    """`dry_run`: say what would be removed, and remove nothing."""

    dry_run: bool = False


def housekeeping_assets(homelab: Homelab) -> list[dg.AssetsDefinition]:
    """What is removed of runs' containers and pods, what of old runs, and how large the storage is then."""
    settings = homelab.housekeeping
    owners = [homelab.owner] if homelab.owner else None
    workers, history, storage = (dg.AssetKey([name, homelab.homelab]) for name in _DELIVERABLES)

    @dg.multi_asset(
        name=op_name(*workers.path),
        specs=[
            dg.AssetSpec(
                workers,
                group_name=GROUP,
                kinds=asset_kinds("docker", "k8s"),
                owners=owners,
                description=(
                    "Containers and jobs of runs; those that have been finished for"
                    f" {format_duration(settings.keep_workers)} are removed."
                ),
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(EVERY_WORKER, asset=workers, description="Nothing that was to go had to be left.")
        ],
    )
    def run_workers(context: dg.AssetExecutionContext, config: Preview) -> Iterator[Any]:
        instance = context.instance

        def has_ended(run_id: str) -> bool | None:
            run = instance.get_run_by_id(run_id)
            return None if run is None else run.is_finished

        with failing_clearly():
            found, said = backends(instance)
            done = reap(found, has_ended, settings.keep_workers, datetime.now(UTC), config.dry_run)
        for line in said:
            context.log.info(line)
        yield dg.MaterializeResult(
            asset_key=workers,
            metadata={
                "dry_run": config.dry_run,
                "removed": len(done.removed),
                "left": len(done.left) + len(done.failed),
                **table_if_any("removed_workers", ["what"], [(each,) for each in done.removed[:_MOST_ROWS]]),
                **table_if_any("left_workers", ["what", "why"], [*done.failed, *done.left][:_MOST_ROWS]),
                **table_if_any("nothing_to_reap", ["launcher and why"], [(line,) for line in said]),
            },
        )
        failed = [f"{worker}: {why}" for worker, why in done.failed]
        yield dg.AssetCheckResult(
            asset_key=workers,
            check_name=EVERY_WORKER,
            passed=not failed,
            description=_named(failed),
            metadata={"failed": len(failed)},
        )

    @dg.multi_asset(
        name=op_name(*history.path),
        specs=[
            dg.AssetSpec(
                history,
                group_name=GROUP,
                kinds=asset_kinds("dagster"),
                owners=owners,
                description=(
                    f"Runs with their events and logs; after {format_duration(settings.keep_runs)} they are deleted,"
                    " but for those that hold an asset's or a check's latest result."
                ),
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(EVERY_LOG, asset=history, description="The compute logs of deleted runs are gone, too.")
        ],
    )
    def run_history(context: dg.AssetExecutionContext, config: Preview) -> Iterator[Any]:
        # Lazy, here and below: SQLAlchemy takes a second and 40 MB, which who only loads the definitions need not pay.
        from homelab_pipelines.housekeeping.purge import purge

        with failing_clearly():
            done = purge(context.instance, settings.keep_runs, config.dry_run, context.log.info)
        yield dg.MaterializeResult(
            asset_key=history,
            metadata={
                "dry_run": config.dry_run,
                "runs_deleted": len(done.runs),
                "events_deleted": done.events,
                "old_runs_kept": len(done.kept),
                **table_if_any("deleted", ["run"], [(run_id,) for run_id in done.runs[:_MOST_ROWS]]),
                **table_if_any("kept", ["run", "needed for"], list(done.kept.items())[:_MOST_ROWS]),
                **table_if_any("logs_left", ["run", "why"], list(done.logs_left.items())[:_MOST_ROWS]),
            },
        )
        left = [f"logs of run {run_id}: {why}" for run_id, why in done.logs_left.items()]
        yield dg.AssetCheckResult(
            asset_key=history,
            check_name=EVERY_LOG,
            passed=not left,
            description=_named(left, "delete them by hand: their runs are gone, and no other purge finds them"),
            metadata={"left": len(left)},
        )

    @dg.multi_asset(
        name=op_name(*storage.path),
        specs=[
            dg.AssetSpec(
                storage,
                deps=[workers, history],
                group_name=GROUP,
                kinds=asset_kinds("dagster"),
                owners=owners,
                description="Dagster's own storage: bytes by table or file, compute logs, runs and events.",
            )
        ],
        check_specs=[dg.AssetCheckSpec(BELOW_LIMIT, asset=storage, description=_limit(settings))],
    )
    def instance_storage(context: dg.AssetExecutionContext) -> Iterator[Any]:
        from homelab_pipelines.housekeeping.storage_size import storage_size

        with failing_clearly():
            size = storage_size(context.instance)
        yield dg.MaterializeResult(asset_key=storage, metadata=_metadata(size))
        yield _below_limit(storage, size, settings.storage_limit)

    return [run_workers, run_history, instance_storage]


def _named(failed: list[str], next_step: str = "") -> str | None:
    """What failed, as far as there is room, and what to do; None where nothing did."""
    more = [f"and {len(failed) - _MOST_NAMED} more"] if len(failed) > _MOST_NAMED else []
    said = "; ".join([*failed[:_MOST_NAMED], *more])
    return f"{said}; next: {next_step}" if said and next_step else said or None


def _limit(settings: Housekeeping) -> str:
    if settings.storage_limit is None:
        return "There is no limit: storage_limit is null."
    return f"Storage and compute logs together are not above {readable_bytes(settings.storage_limit)}."


def _metadata(size: "StorageSize") -> dict[str, Any]:
    return {
        "bytes": size.bytes,
        "storage_bytes": size.storage_bytes,
        # A plot shows a gap, not a zero, where nothing was measured.
        **({} if size.compute_log_bytes is None else {"compute_log_bytes": size.compute_log_bytes}),
        "runs": size.runs,
        "events": size.events,
        "snapshots": size.snapshots,
        "kind": size.kind,
        **table_if_any("parts", ["part", "bytes"], [(name, each) for name, each in size.parts.items()]),
        **({"not_measured": "compute logs: they are not in a folder"} if size.compute_log_bytes is None else {}),
    }


def _below_limit(key: dg.AssetKey, size: "StorageSize", limit: int | None) -> dg.AssetCheckResult:
    passed = limit is None or size.bytes <= limit
    parts = {**size.parts, "compute logs": size.compute_log_bytes or 0}
    largest = max(parts, key=lambda name: parts[name])
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=BELOW_LIMIT,
        passed=passed,
        description=(
            None
            if passed
            else f"{readable_bytes(size.bytes)}, most of it {largest} with {readable_bytes(parts[largest])}."
            " Next: a shorter housekeeping.keep_runs in homelab.yaml, or a higher storage_limit"
        ),
        metadata={"bytes": size.bytes, **({} if limit is None else {"limit_bytes": limit})},
    )
