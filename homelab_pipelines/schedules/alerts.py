"""Sensors that tell people: a run that failed, a check that did not pass, and pings to a dead man's switch."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from homelab_pipelines.observability.alerts import PingEvent
from homelab_pipelines.resources.alerts import AlertsResource

if TYPE_CHECKING:  # Dagster exports the function that makes one, not its type
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

_INTERVAL_SECONDS = 10


def alert_sensors(job: "UnresolvedAssetJobDefinition", pings: bool) -> Sequence[dg.SensorDefinition]:
    """The alert sensors of a job; those that ping only where the inventory has an address for it."""
    running = dg.DefaultSensorStatus.RUNNING

    @dg.run_failure_sensor(
        name="alert_on_failed_run",
        description="Tells the alert receivers of homelab.yaml which job and step failed, and why.",
        monitored_jobs=[job],
        default_status=running,
        minimum_interval_seconds=_INTERVAL_SECONDS,
    )
    def alert_on_failed_run(context: dg.RunFailureSensorContext, alerts: AlertsResource) -> None:
        checks = list(failed_checks(context.instance, context.dagster_run.run_id))
        steps = [_failure_text(event) for event in context.get_step_failure_events()]
        # A blocking check fails its step as well, with its name alone; the check itself says why.
        causes = [*(each for each in steps if not (checks and "blocking asset check" in each)), *checks]
        body = "\n\n".join(causes) or broken_off(context.instance, context.dagster_run.run_id)
        _send(context, alerts, f"homelab: {context.dagster_run.job_name} failed", body)

    @dg.run_status_sensor(
        name="alert_on_failed_checks",
        description="Tells the alert receivers of homelab.yaml which checks did not pass in a run that ended well.",
        run_status=dg.DagsterRunStatus.SUCCESS,
        monitored_jobs=[job],
        default_status=running,
        minimum_interval_seconds=_INTERVAL_SECONDS,
    )
    def alert_on_failed_checks(context: dg.RunStatusSensorContext, alerts: AlertsResource) -> None:
        failed = list(failed_checks(context.instance, context.dagster_run.run_id))
        if failed:
            word = "check" if len(failed) == 1 else "checks"
            title = f"homelab: {context.dagster_run.job_name} ended, with {len(failed)} failed {word}"
            _send(context, alerts, title, "\n\n".join(failed))

    sensors: list[dg.SensorDefinition] = [alert_on_failed_run, alert_on_failed_checks]
    return [*sensors, *_ping_sensors(job)] if pings else sensors


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
            error = getattr(event.event_specific_data, "error", None)
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
    """One for each status that is pinged; a run that ended well with failed checks is pinged as a failure."""
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
            message = f"{run.job_name} {run.run_id}"
            told = event
            if event == "start":
                now = context.instance.get_run_by_id(run.run_id)
                if now is not None and now.is_finished:
                    return  # a short run: a start after its end would say that it still goes on
            elif event == "success":
                failed = list(failed_checks(context.instance, run.run_id, warnings=False))
                told, message = ("fail", "\n".join([message, *failed])) if failed else (event, message)
            if problem := alerts.ping(told, message):
                context.log.warning(problem)

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
