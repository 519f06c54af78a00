"""Alerts and pings about a run in the process of `homelab backup`, which no sensor of a daemon sees."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import dagster as dg

from homelab_pipelines.commands.abandoned_runs import PROCESS_TAG
from homelab_pipelines.commands.output import say
from homelab_pipelines.inventory.loader import sound_parts
from homelab_pipelines.resources.alerts import AlertsResource
from homelab_pipelines.schedules.alerts import alert_of_checks, alert_of_failure, ping_of_end
from homelab_pipelines.schedules.nightly_backup import JOB


def alerts_of(inventory: Path) -> AlertsResource:
    """Whom to tell, also by an inventory with mistakes in other parts."""
    sound = sound_parts(inventory)
    return AlertsResource(inventory=str(inventory)) if sound is None else AlertsResource.of(sound, str(inventory))


def tell_abandoned(alerts: AlertsResource, instance: dg.DagsterInstance, run_id: str) -> None:
    """Alert about a run whose process is gone, and could not say so itself; sensors tell of those of a code server."""
    run = instance.get_run_by_id(run_id)
    if run is not None and PROCESS_TAG in run.tags:
        _say(*alert_of_failure(alerts, instance, run))


class Teller:
    """Tells how a run goes. As a context: also that what should have become a run broke off with an error.

    Ctrl-C and SIGTERM are told to nobody: who sent them knows. A monitor that was pinged at the start misses the end.
    """

    def __init__(self, inventory: Path, pings: bool) -> None:
        self._alerts = alerts_of(inventory)
        self._pings = pings

    def __enter__(self) -> Teller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            _say(*self._alerts.send(f"homelab: {JOB} failed", f"homelab backup broke off: {error}"))
            if self._pings:
                _say(self._alerts.ping("fail", str(error)))

    def begun(self, run_id: str) -> None:
        """Ping that a run starts."""
        if self._pings:
            _say(self._alerts.ping("start", f"{JOB} {run_id}"))

    def abandoned(self, instance: dg.DagsterInstance, run_id: str) -> None:
        """As `tell_abandoned`."""
        tell_abandoned(self._alerts, instance, run_id)

    def ended(self, instance: dg.DagsterInstance, run_id: str) -> None:
        """Alert of what failed, if anything did, and ping the end."""
        run = instance.get_run_by_id(run_id)
        if run is None:
            return
        failed = run.status is not dg.DagsterRunStatus.SUCCESS
        _say(*(alert_of_failure if failed else alert_of_checks)(self._alerts, instance, run))
        if self._pings:
            _say(ping_of_end(self._alerts, instance, run, failed))


def _say(*problems: str | None) -> None:
    for problem in problems:
        if problem:
            say(f"warning: {problem}")
