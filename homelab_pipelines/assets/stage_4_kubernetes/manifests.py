"""`kompose_manifests/<stack>`: what Kompose makes of a stack; `kubernetes_manifests/<stack>`: what is made of that.

One step: reading, Kompose and completion take less than a second together, and the second needs the first's objects.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from homelab_pipelines.assets.common import asset_kinds, inspected_once, op_name
from homelab_pipelines.assets.errors import failing_clearly
from homelab_pipelines.assets.markdown import table, table_if_any
from homelab_pipelines.migration.account import blockers
from homelab_pipelines.migration.convert import Conversion, convert
from homelab_pipelines.migration.digest import conversion_digest, kompose_digest
from homelab_pipelines.migration.manifests import REPORT, files, write
from homelab_pipelines.resources.stacks import StacksResource

GROUP = "stage_4_kubernetes"
PARSES, NOTHING_BLOCKED = "parses", "nothing_blocked"
_MOST_NAMED = 5
# When the stack says something else than at the last conversion, not whenever it was read again.
_FOLLOWS = dg.AutomationCondition.eager().replace(
    "any_deps_updated", dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())
)


def manifests_assets(name: str, owner: str | None) -> dg.AssetsDefinition:
    """The two assets of one stack. A stack that cannot be read has no manifests: those of before stay as they are."""
    kompose, complete = (dg.AssetKey([kind, name]) for kind in ("kompose_manifests", "kubernetes_manifests"))
    owners = [owner] if owner else None

    @dg.multi_asset(
        name=op_name("kubernetes_manifests", name),
        specs=[
            dg.AssetSpec(
                kompose,
                deps=[dg.AssetKey(["compose_stack", name])],
                group_name=GROUP,
                kinds=asset_kinds("kubernetes", "yaml"),
                owners=owners,
                automation_condition=_FOLLOWS,
                description=f"What the real Kompose makes of the stack `{name}`, as it is, with its warnings.",
            ),
            dg.AssetSpec(
                complete,
                deps=[kompose],
                group_name=GROUP,
                kinds=asset_kinds("kubernetes", "yaml"),
                owners=owners,
                automation_condition=_FOLLOWS,
                description=f"Kubernetes manifests of the stack `{name}`, with an account of every value of it.",
            ),
        ],
        check_specs=[
            dg.AssetCheckSpec(PARSES, asset=kompose, description="Objects can be read from every file of Kompose."),
            dg.AssetCheckSpec(NOTHING_BLOCKED, asset=complete, description="A person need decide nothing first."),
        ],
    )
    @inspected_once
    def kubernetes_manifests(stacks: StacksResource) -> Iterator[Any]:
        with failing_clearly():
            conversion = convert(stacks.stack(name))
            made, folder = files(conversion), stacks.manifests(name)
            write(made, folder)
        version = dg.DataVersion(kompose_digest(conversion.kompose))
        yield dg.MaterializeResult(asset_key=kompose, metadata=_of_kompose(conversion), data_version=version)
        yield _parses(kompose, conversion)
        version = dg.DataVersion(conversion_digest(made))
        metadata = {"folder": dg.MetadataValue.path(str(folder)), **_of_conversion(conversion), "report": _report(made)}
        yield dg.MaterializeResult(asset_key=complete, metadata=metadata, data_version=version)
        yield _nothing_blocked(complete, conversion)

    return kubernetes_manifests


def _of_kompose(conversion: Conversion) -> dict[str, Any]:
    kompose = conversion.kompose
    said = [*(("withheld", line) for line in kompose.withheld), *(("said", line) for line in kompose.warnings)]
    return {
        "version": kompose.version,
        "objects": len(kompose.objects()),
        "withheld": len(kompose.withheld),
        "warnings": len(kompose.warnings),
        **table_if_any("messages", ["", "message"], said),
    }


def _parses(key: dg.AssetKey, conversion: Conversion) -> dg.AssetCheckResult:
    broken = conversion.kompose.unreadable()
    said = f"no objects can be read from {', '.join(broken)}; next: look at kompose/messages.txt"
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=PARSES,
        passed=not broken,
        description=said if broken else None,
        metadata={"files": len(conversion.kompose.files), "unreadable": len(broken)},
    )


def _of_conversion(conversion: Conversion) -> dict[str, Any]:
    kinds = Counter(each["kind"] for each in conversion.objects)
    counts = conversion.ledger.counts()
    return {
        "namespace": conversion.namespace,
        "objects": len(conversion.objects),
        "secrets": len(conversion.secrets),
        "copies": len(conversion.copies),
        **{f"values_{fate}": count for fate, count in counts.items()},
        "kinds": table(["kind", "objects"], sorted(kinds.items())),
    }


def _report(made: Mapping[str, bytes]) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(made[REPORT].decode())


def _nothing_blocked(key: dg.AssetKey, conversion: Conversion) -> dg.AssetCheckResult:
    found = blockers(conversion)
    said = "; ".join(f"{each['file']}:{each['line']}: {each['message']}" for each in found[:_MOST_NAMED])
    more = f"; and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    rows = [(f"{each['file']}:{each['line']}", each["message"]) for each in found]
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=NOTHING_BLOCKED,
        passed=not found,
        description=f"{said}{more}; next: decide in the Compose file, or in your overlay" if found else None,
        metadata={"blockers": len(found), **table_if_any("decisions", ["where", "what"], rows)},
    )
