"""`homelab backup`: a Dagster run in this process, recorded where the UI shows it."""

from __future__ import annotations

import os
from typing import Any

import dagster as dg

from homelab_pipelines.assets.stage_1_foundation.database_backup import backup_key
from homelab_pipelines.backup.configured import HOME_VARIABLE, ConfiguredBackups, inventory_path, state_home
from homelab_pipelines.backup.errors import ObjectMissing
from homelab_pipelines.backup.layout import Source
from homelab_pipelines.commands.output import print_json, progress_bar, say
from homelab_pipelines.definitions import build_definitions
from homelab_pipelines.local_deployment import Deployment
from homelab_pipelines.schedules.nightly_backup import JOB

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def back_up(names: tuple[str, ...], as_json: bool) -> int:
    """Back up and prove the named sources, or all (then retention, too); 0 only when every step and check passed."""
    deployment = Deployment(inventory_path(), state_home())
    deployment.prepare()
    os.environ.setdefault(HOME_VARIABLE, str(deployment.home))
    configured = ConfiguredBackups.from_environment()
    configured.discover()
    definitions = build_definitions(configured, str(deployment.inventory))
    keys = [_key(configured, name) for name in names]
    if keys:
        keys += [dg.AssetKey(["database", key.path[1]]) for key in keys if key.path[0] == "database_backup"]
    job = definitions.resolve_job_def(JOB)
    lines: list[dict[str, Any]] = []
    with (
        dg.DagsterInstance.from_config(str(deployment.dagster_home)) as instance,
        progress_bar(JOB) as progress,
    ):
        run_id = dg.DagsterRun(job_name=JOB).run_id
        instance.add_event_listener(run_id, lambda entry: progress(entry.step_key or "", 0, 0))
        result = job.execute_in_process(
            instance=instance,
            run_id=run_id,
            run_config=_QUIET,
            asset_selection=keys or None,
            raise_on_error=False,
            tags={"homelab/started_by": "homelab backup"},
        )
        for event in result.all_events:
            if event.is_step_failure:
                failure = event.step_failure_data.user_failure_data
                error = event.step_failure_data.error
                why = failure.description if failure and failure.description else (error.message if error else "")
                lines.append({"step": event.step_key, "passed": False, "description": why})
        for check in result.get_asset_check_evaluations():
            name = f"{check.asset_key.to_user_string()}: {check.check_name}"
            lines.append({"step": name, "passed": check.passed, "description": check.description})
    passed = result.success and all(line["passed"] for line in lines)
    if as_json:
        print_json({"run_id": run_id, "passed": passed, "steps": lines})
    else:
        for line in lines:
            said = f": {line['description']}" if line["description"] else ""
            say(f"{'ok    ' if line['passed'] else 'FAILED'} {line['step']}{said}")
        say(f"run {run_id} {'succeeded' if passed else 'did not do all that was asked'}")
    return 0 if passed else 1


def _key(configured: ConfiguredBackups, name: str) -> dg.AssetKey:
    for instance, source in configured.instances().items():
        if name in (instance, source.id, source.database):
            return backup_key(instance, source)
    for server in configured.homelab.databases:
        if name in (server, Source(server, None).id):
            return backup_key(server, Source(server, None))
    known = ", ".join(configured.instances())
    raise ObjectMissing(f"backing up {name!r}", f"the servers have {known or 'no database'}", "homelab backup NAME…")
