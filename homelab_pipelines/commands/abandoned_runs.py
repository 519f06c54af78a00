"""Runs whose process is gone: Dagster's own monitor sees a dead worker only while the code server that had it lives."""

from __future__ import annotations

import json
from datetime import datetime

import dagster as dg

from homelab_pipelines.backup import process_identity

PROCESS_TAG = "homelab/process"
"""On a run in the process of `homelab backup`: which process that is."""
_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def process_tag() -> dict[str, str]:
    """The tag of a run in this process."""
    return {PROCESS_TAG: json.dumps(process_identity.this_process())}


def end_abandoned(instance: dg.DagsterInstance, before: datetime, launched_too: bool) -> list[str]:
    """Mark runs that nobody carries on as failed and give their pools back; their ids.

    A run of `homelab backup` is abandoned when its process is gone. `launched_too`: so is every run that a code server
    had before `before`; to be said only where it is known that no such code server is left.
    """
    ended = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED, updated_before=before)):
        tag = run.tags.get(PROCESS_TAG)
        if process_ended(tag) if tag is not None else launched_too:
            instance.report_run_failed(run, "the process that carried out this run was killed, or the machine stopped")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            ended.append(run.run_id)
    return ended


def process_ended(tag: str) -> bool:
    """Whether the process of a tag has surely ended; one of another container cannot be seen from here."""
    try:
        then = json.loads(tag)
        now = process_identity.this_process()
        if then["boot"] != now["boot"]:
            return True
        if then["namespace"] != now["namespace"]:
            return False
        return bool(process_identity.started(int(then["pid"])) != then["started"])
    except (ValueError, KeyError, TypeError):
        return False
