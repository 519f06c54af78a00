"""`database/<name>`: a database that answers, with its version, size and growth."""

from collections.abc import Iterator

import dagster as dg

from homelab_pipelines.assets.common import GROUP, asset_kinds, inspected_once, op_name, pool
from homelab_pipelines.assets.errors import failing_clearly
from homelab_pipelines.assets.markdown import table
from homelab_pipelines.backup.layout import Source
from homelab_pipelines.backup.observe import observe
from homelab_pipelines.resources.backups import BackupsResource


def database_asset(instance: str, source: Source, owner: str | None, retries: dg.RetryPolicy) -> dg.AssetsDefinition:
    """The asset of one database."""
    key = dg.AssetKey(["database", instance])

    @dg.multi_asset(
        name=op_name("database", instance),
        specs=[
            dg.AssetSpec(
                key,
                group_name=GROUP,
                kinds=asset_kinds("postgres"),
                owners=[owner] if owner else None,
                description=(
                    f"Database `{source.database}` of server `{source.server}`: version, size, growth, connections,"
                    " extensions, as it says itself."
                ),
            )
        ],
        retry_policy=retries,
        pool=pool(source.server),
    )
    @inspected_once
    def database(context: dg.AssetExecutionContext, backups: BackupsResource) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
        with failing_clearly():
            facts = observe(backups.open().connection(source.server), source.database or "postgres")
        before = context.instance.get_latest_materialization_event(key)
        materialization = before.asset_materialization if before else None
        earlier = materialization.metadata.get("bytes") if materialization else None
        growth = facts.bytes - int(earlier.value) if isinstance(earlier, dg.IntMetadataValue) and earlier.value else 0
        yield dg.MaterializeResult(
            asset_key=key,
            metadata={
                "version": facts.version,
                "bytes": facts.bytes,
                "growth_bytes": growth,
                "connections": facts.connections,
                "longest_transaction_seconds": facts.longest_transaction.total_seconds(),
                "replicas": facts.replicas,
                "extensions": table(["extension", "version"], sorted(facts.extensions.items())),
            },
        )

    return database
