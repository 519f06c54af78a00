"""Sensors that tell people: a run that failed, a check that did not pass, and pings to a dead man's switch."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.events import RunFailureReason
from dagster._core.execution.plan.objects import ErrorSource

from homelab_pipelines.observability.alerts import PingEvent
from homelab_pipelines.resources.alerts import AlertsResource

if TYPE_CHECKING:  # Dagster exports the function that makes one, not its type
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

TOLD_BY_TAG = "homelab/told_by"
"""On a run whose own process tells people how it went, as `homelab backup` does: no sensor tells them again."""
_INTERVAL_SECONDS = 10


def alert_sensors(
    jobs: Sequence["UnresolvedAssetJobDefinition"], pinged: "UnresolvedAssetJobDefinition | None"
) -> Sequence[dg.SensorDefinition]:
    """The sensors that alert about `jobs`, and those that ping about `pinged`, if any."""
    running = dg.DefaultSensorStatus.RUNNING

    @dg.run_failure_sensor(
        name="alert_on_failed_run",
        description="Tells the alert receivers of homelab.yaml which job and step failed, and why.",
        monitored_jobs=list(jobs),
        default_status=running,
        minimum_interval_seconds=_INTERVAL_SECONDS,
    )
    def alert_on_failed_run(context: dg.RunFailureSensorContext, alerts: AlertsResource) -> None:
        if TOLD_BY_TAG not in context.dagster_run.tags:
            _log(context, alert_of_failure(alerts, context.instance, context.dagster_run))

    @dg.run_status_sensor(
        name="alert_on_failed_checks",
        description="Tells the alert receivers of homelab.yaml which checks did not pass in a run that ended well.",
        run_status=dg.DagsterRunStatus.SUCCESS,
        monitored_jobs=list(jobs),
        default_status=running,
        minimum_interval_seconds=_INTERVAL_SECONDS,
    )
    def alert_on_failed_checks(context: dg.RunStatusSensorContext, alerts: AlertsResource) -> None:
        if TOLD_BY_TAG not in context.dagster_run.tags:
            _log(context, alert_of_checks(alerts, context.instance, context.dagster_run))

    sensors: list[dg.SensorDefinition] = [alert_on_failed_run, alert_on_failed_checks]
    return [*sensors, *_ping_sensors(pinged)] if pinged is not None else sensors


def alert_of_failure(alerts: AlertsResource, instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    """Tell that a run failed, which steps and checks, and why; what could not be delivered."""
    checks = list(failed_checks(instance, run.run_id))
    entries = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    events = [entry.dagster_event for entry in entries if entry.dagster_event is not None]
    # What was only interrupted is told by how the run was broken off.
    steps = [
        _failure_text(event) for event in events if event.step_failure_data.error_source is not ErrorSource.INTERRUPT
    ]
    # A blocking check fails its step as well, with its name alone; the check itself says why.
    causes = [*(each for each in steps if not (checks and "blocking asset check" in each)), *checks]
    body = "\n\n".join(causes) or broken_off(instance, run.run_id)
    return alerts.send(f"homelab: {run.job_name} failed", f"{body}\n\nrun {run.run_id}")


def alert_of_checks(alerts: AlertsResource, instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    """Tell which checks of a run that ended well did not pass, if any; what could not be delivered."""
    failed = list(failed_checks(instance, run.run_id))
    if not failed:
        return []
    title = f"homelab: {run.job_name} ended, with {len(failed)} failed {'check' if len(failed) == 1 else 'checks'}"
    return alerts.send(title, "\n\n".join([*failed, f"run {run.run_id}"]))


def ping_of_end(alerts: AlertsResource, instance: dg.DagsterInstance, run: dg.DagsterRun, failed: bool) -> str | None:
    """Ping how a run ended: one that ended well with failed checks is pinged as a failure. What went wrong, or None."""
    message = f"{run.job_name} {run.run_id}"
    if failed:
        return alerts.ping("fail", message)
    checks = list(failed_checks(instance, run.run_id, warnings=False))
    return alerts.ping("fail", "\n".join([message, *checks])) if checks else alerts.ping("success", message)


def failed_checks(instance: dg.DagsterInstance, run_id: str, warnings: bool = True) -> Iterator[str]:
    """The checks of a run that did not pass, each with its cause; with or without those that only warn."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        event = entry.dagster_event
        if event is None or (found := event.asset_check_evaluation_data).passed:
            continue
        if warnings or found.severity is dg.AssetCheckSeverity.ERROR:
            yield f"{found.asset_key.to_user_string()} {found.check_name}: {found.description or 'not passed'}"


def broken_off(instance: dg.DagsterInstance, run_id: str) -> str:
    """Why a run failed whose steps did not: what was last said of its process, and the steps that were under way."""
    said, under_way = "the run ended without a word", {}
    for entry in instance.all_logs(run_id):
        event = entry.dagster_event
        if event is None:
            continue
        if event.is_run_failure:
            # None where the run was marked as failed from outside, whatever the type of job_failure_data says.
            data = event.event_specific_data
            error = getattr(data, "error", None)
            if getattr(data, "failure_reason", None) is RunFailureReason.UNEXPECTED_TERMINATION:
                said = f"its process was told to end: {event.message}"
            else:
                said = f"{said} ({event.message})" if error is None else str(error.message)
            break
        if event.is_engine_event and event.message:
            cause = event.engine_event_data.error
            said = event.message if cause is None else cause.message.strip()
        elif event.is_step_start:
            under_way[event.step_key] = True
        elif event.is_step_success or event.is_step_failure:
            under_way.pop(event.step_key, None)
    steps = ", ".join(str(step) for step in under_way)
    return f"{steps}: {said}" if steps else said


def _ping_sensors(job: "UnresolvedAssetJobDefinition") -> list[dg.SensorDefinition]:
    """One for each status that is pinged."""
    statuses: dict[PingEvent, dg.DagsterRunStatus] = {
        "start": dg.DagsterRunStatus.STARTED,
        "success": dg.DagsterRunStatus.SUCCESS,
        "fail": dg.DagsterRunStatus.FAILURE,
    }

    def sensor(event: PingEvent, status: dg.DagsterRunStatus) -> dg.SensorDefinition:
        @dg.run_status_sensor(
            name=f"ping_{event}",
            description=f"Pings the monitor of homelab.yaml: {event}.",
            run_status=status,
            monitored_jobs=[job],
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=_INTERVAL_SECONDS,
        )
        def ping(context: dg.RunStatusSensorContext, alerts: AlertsResource) -> None:
            run = context.dagster_run
            if TOLD_BY_TAG in run.tags:
                return
            if event == "start":
                now = context.instance.get_run_by_id(run.run_id)
                if now is not None and now.is_finished:
                    return  # a short run: a start after its end would say that it still goes on
                problem = alerts.ping("start", f"{run.job_name} {run.run_id}")
            else:
                problem = ping_of_end(alerts, context.instance, run, failed=event == "fail")
            _log(context, [problem] if problem else [])

        return ping

    return [sensor(event, status) for event, status in statuses.items()]


def _failure_text(event: dg.DagsterEvent) -> str:
    failure = event.step_failure_data.user_failure_data
    error = event.step_failure_data.error
    cause = failure.description if failure and failure.description else (error.message if error else "")
    return f"{event.step_key}: {cause}"


def _log(context: dg.RunStatusSensorContext, problems: Sequence[str]) -> None:
    for problem in problems:
        context.log.warning(problem)
