"""`compose_stack/<stack>`: a Compose project as Compose resolves it, or every mistake that keeps it from that."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from homelab_pipelines.assets.common import GROUP, asset_kinds, inspected_once, op_name
from homelab_pipelines.assets.errors import failing_clearly
from homelab_pipelines.assets.markdown import table, table_if_any
from homelab_pipelines.inventory.problems import Problem
from homelab_pipelines.migration.digest import stack_digest
from homelab_pipelines.migration.stack import Stack
from homelab_pipelines.migration.state import blockers, data_kept
from homelab_pipelines.resources.stacks import StacksResource

RESOLVES = "resolves"
_MOST_ROWS = 100
_MOST_NAMED = 5
_UNSET = "the variable "
_HOURLY = "7 * * * *"


def compose_stack_asset(name: str, host: str, owner: str | None) -> dg.AssetsDefinition:
    """The asset of one stack. What does not resolve is not materialized, so that nothing is made from it."""
    key = dg.AssetKey(["compose_stack", name])

    @dg.multi_asset(
        name=op_name("compose_stack", name),
        specs=[
            dg.AssetSpec(
                key,
                skippable=True,
                group_name=GROUP,
                kinds=asset_kinds("docker", "yaml"),
                owners=[owner] if owner else None,
                automation_condition=dg.AutomationCondition.on_cron(_HOURLY),
                description=f"Compose stack `{name}` on host `{host}`, as Compose itself resolves it.",
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(RESOLVES, asset=key, description="Compose reads the files, and they contradict nothing.")
        ],
    )
    @inspected_once
    def compose_stack(stacks: StacksResource) -> Iterator[Any]:
        with failing_clearly():
            read = stacks.read(name)
        if read.stack is not None:
            version = dg.DataVersion(stack_digest(read.stack))
            yield dg.MaterializeResult(asset_key=key, metadata=_metadata(read.stack), data_version=version)
        yield _resolves(key, read.problems)

    return compose_stack


def _resolves(key: dg.AssetKey, problems: tuple[Problem, ...]) -> dg.AssetCheckResult:
    more = f" And {len(problems) - _MOST_NAMED} more; next: homelab check" if len(problems) > _MOST_NAMED else ""
    said = "; ".join(str(problem).replace("\n ", ":") for problem in problems[:_MOST_NAMED])
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=RESOLVES,
        passed=not problems,
        description=f"{said}{more}" if problems else None,
        metadata={
            "mistakes": len(problems),
            **table_if_any("problems", ["where", "what", "next"], [_row(problem) for problem in problems]),
        },
    )


def _metadata(stack: Stack) -> dict[str, Any]:
    services = stack.model.get("services") or {}
    kept, stopping = data_kept(stack), blockers(stack)
    unset = [warning for warning in stack.warnings if warning.message.startswith(_UNSET)]
    rows = [
        (
            name,
            service.get("image", "built here"),
            ", ".join(dict.fromkeys(reason.message for reason in kept if reason.service == name)) or "stateless",
            ", ".join(dict.fromkeys(reason.message for reason in stopping if reason.service == name)) or "-",
        )
        for name, service in sorted(services.items())
    ]
    return {
        "services": len(services),
        "state": "stateful" if kept else "stateless",
        "blockers": len(stopping),
        "warnings": len(stack.warnings),
        "variables_unset": len(unset),
        "files": [str(file) for file in stack.files],
        "what": table(["service", "image", "data", "blockers"], rows),
        **table_if_any("warned", ["where", "what", "next"], [_row(warning) for warning in stack.warnings[:_MOST_ROWS]]),
    }


def _row(problem: Problem) -> tuple[str, str, str]:
    place = f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file
    return place, problem.message, problem.hint
