"""Sensors that tell people: a run that failed, a check that did not pass, and pings to a dead man's switch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from homelab_pipelines.resources.alerts import AlertsResource

if TYPE_CHECKING:  # Dagster exports the function that makes one, not its type
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

_INTERVAL_SECONDS = 10


def alert_sensors(job: "UnresolvedAssetJobDefinition", pings: bool) -> Sequence[dg.SensorDefinition]:
    """The alert sensors of a job; those that ping only where the inventory has an address for it."""
    running = dg.DefaultSensorStatus.RUNNING

    @dg.run_failure_sensor(
        name="alert_on_failed_run",
        monitored_jobs=[job],
        default_status=running,
        minimum_interval_seconds=_INTERVAL_SECONDS,
    )
    def alert_on_failed_run(context: dg.RunFailureSensorContext, alerts: AlertsResource) -> None:
        failures = [_failure_text(event) for event in context.get_step_failure_events()]
        # An asset that a failed one held back is a failure too; the first cause is what a person needs.
        body = "\n\n".join(failures) or context.failure_event.message or "the run ended without a word"
        _send(context, alerts, f"homelab: {context.dagster_run.job_name} failed", body)

    @dg.run_status_sensor(
        name="alert_on_failed_checks",
        run_status=dg.DagsterRunStatus.SUCCESS,
        monitored_jobs=[job],
        default_status=running,
        minimum_interval_seconds=_INTERVAL_SECONDS,
    )
    def alert_on_failed_checks(context: dg.RunStatusSensorContext, alerts: AlertsResource) -> None:
        entries = context.instance.all_logs(
            context.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
        )
        failed = [
            f"{evaluation.asset_key.to_user_string()} {evaluation.check_name}: {evaluation.description or 'not passed'}"
            for entry in entries
            if entry.dagster_event is not None
            and not (evaluation := entry.dagster_event.asset_check_evaluation_data).passed
        ]
        if failed:
            title = f"homelab: {context.dagster_run.job_name} ended, with {len(failed)} failed checks"
            _send(context, alerts, title, "\n".join(failed))

    sensors: list[dg.SensorDefinition] = [alert_on_failed_run, alert_on_failed_checks]
    return [*sensors, *_ping_sensors(job)] if pings else sensors


def _ping_sensors(job: "UnresolvedAssetJobDefinition") -> list[dg.SensorDefinition]:
    statuses = {
        "start": dg.DagsterRunStatus.STARTED,
        "success": dg.DagsterRunStatus.SUCCESS,
        "fail": dg.DagsterRunStatus.FAILURE,
    }

    def sensor(event: str, status: dg.DagsterRunStatus) -> dg.SensorDefinition:
        @dg.run_status_sensor(
            name=f"ping_{event}",
            run_status=status,
            monitored_jobs=[job],
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=_INTERVAL_SECONDS,
        )
        def ping(context: dg.RunStatusSensorContext, alerts: AlertsResource) -> None:
            failed = alerts.ping(event, f"{context.dagster_run.job_name} {context.dagster_run.run_id}")  # type: ignore[arg-type]
            if failed:
                context.log.warning(failed)

        return ping

    return [sensor(event, status) for event, status in statuses.items()]


def _failure_text(event: dg.DagsterEvent) -> str:
    failure = event.step_failure_data.user_failure_data
    error = event.step_failure_data.error
    cause = failure.description if failure and failure.description else (error.message if error else "")
    return f"{event.step_key}: {cause}"


def _send(context: dg.RunStatusSensorContext, alerts: AlertsResource, title: str, body: str) -> None:
    for failed in alerts.send(title, f"{body}\n\nrun {context.dagster_run.run_id}"):
        context.log.warning(failed)
