"""`homelab backup`: a Dagster run in this process, recorded where the UI shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from homelab_pipelines.assets.progress import Progress
from homelab_pipelines.assets.stage_1_foundation.database_backup import backup_key
from homelab_pipelines.backup.configured import ConfiguredBackups, inventory_path, state_home
from homelab_pipelines.backup.errors import ChoiceFailed, ObjectMissing
from homelab_pipelines.commands.abandoned_runs import end_abandoned, process_tag
from homelab_pipelines.commands.output import print_json, progress_bar, say
from homelab_pipelines.commands.telling import Teller
from homelab_pipelines.definitions import build_definitions
from homelab_pipelines.local_deployment import Deployment, is_up
from homelab_pipelines.schedules.alerts import TOLD_BY_TAG
from homelab_pipelines.schedules.nightly_backup import JOB

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def back_up(names: tuple[str, ...], as_json: bool) -> int:
    """Back up and prove the named sources, or all (then retention, too); 0 only when every step and check passed.

    Alerts and pings are sent from here: Dagster's sensors see no run that was not launched from a code location.
    """
    deployment = Deployment(inventory_path(), state_home())
    # The monitor that is pinged waits for the whole job: one database alone says nothing of it.
    with Teller(deployment.inventory, pings=not names) as teller:
        configured = ConfiguredBackups.from_environment()
        failed = configured.discover()[1].values()
        for error in failed:
            say(str(error))
        # Patterns that cannot be meant leave something without a backup, whatever becomes of the rest.
        meant_otherwise = not names and any(isinstance(error, ChoiceFailed) for error in failed)
        keys = [key for name in names for key in _keys(configured, name)]
        deployment.prepare()
        with dg.DagsterInstance.from_config(str(deployment.dagster_home)) as instance:
            for ended in end_abandoned(instance, datetime.now(UTC), launched_too=not is_up(deployment)):
                say(f"run {ended} was left behind by a process that is gone: marked as failed")
                teller.abandoned(instance, ended)
            run_id = dg.DagsterRun(job_name=JOB).run_id
            teller.begun(run_id)
            with progress_bar(JOB) as progress:
                result = _run(instance, run_id, configured, keys, progress)
            teller.ended(instance, run_id)
            lines = list(_lines(result))
    passed = result.success and all(line["passed"] for line in lines) and not meant_otherwise
    if as_json:
        print_json({"run_id": run_id, "passed": passed, "steps": lines})
    else:
        for line in lines:
            said = f": {line['description']}" if line["description"] else ""
            say(f"{'ok    ' if line['passed'] else 'FAILED'} {line['step']}{said}")
        say(f"run {run_id} {'succeeded' if passed else 'did not do all that was asked'}")
    return 0 if passed else 1


def _run(
    instance: dg.DagsterInstance,
    run_id: str,
    configured: ConfiguredBackups,
    keys: Sequence[dg.AssetKey],
    progress: Progress,
) -> dg.ExecuteInProcessResult:
    """The job over `keys`, or over everything; `progress` is told each step that begins, and how far the engine is."""

    def begin(entry: dg.EventLogEntry) -> None:
        if entry.dagster_event is not None and entry.dagster_event.is_step_start:
            progress(entry.step_key or "", 0, 0)

    instance.add_event_listener(run_id, begin)
    definitions = build_definitions(configured, str(inventory_path()), progress=progress)
    return definitions.resolve_job_def(JOB).execute_in_process(
        instance=instance,
        run_id=run_id,
        run_config=_QUIET,
        asset_selection=keys or None,
        raise_on_error=False,
        tags={"homelab/started_by": "homelab backup", TOLD_BY_TAG: "homelab backup", **process_tag()},
    )


def _lines(result: dg.ExecuteInProcessResult) -> Iterator[dict[str, Any]]:
    """What failed, what was held back by that, and every check."""
    checks = [
        {
            "step": f"{check.asset_key.to_user_string()}: {check.check_name}",
            "passed": check.passed,
            "description": check.description,
        }
        for check in result.get_asset_check_evaluations()
    ]
    begun = set()
    for event in result.all_events:
        if event.is_step_start:
            begun.add(event.step_key)
        elif event.is_step_failure:
            failure = event.step_failure_data.user_failure_data
            error = event.step_failure_data.error
            why = failure.description if failure and failure.description else (error.message if error else "")
            yield {"step": event.step_key, "passed": False, "description": why.strip()}
        elif event.event_type == dg.DagsterEventType.RUN_FAILURE and event.job_failure_data.error is not None:
            # Not a step's: of those that failed Dagster says only that they did.
            cause = event.job_failure_data.error
            while cause.cause is not None:
                cause = cause.cause
            yield {"step": "the run", "passed": False, "description": cause.message.strip()}
    for node in result.job_def.nodes:
        if node.name not in begun:
            yield {"step": node.name, "passed": False, "description": "not run: what it rests on failed"}
    yield from checks


def _keys(configured: ConfiguredBackups, name: str) -> list[dg.AssetKey]:
    """The assets of one source: its observation and its backup."""
    source = configured.find_source(name)
    if source is None:
        known = ", ".join([*configured.instances(), *(f"{server}/@globals" for server in configured.homelab.databases)])
        raise ObjectMissing(f"backing up {name!r}", f"the servers have {known or 'no database'}", "homelab discover")
    if source.database is None:
        return [backup_key("", source)]
    instance = next(each for each, found in configured.instances().items() if found == source)
    return [dg.AssetKey(["database", instance]), backup_key(instance, source)]
