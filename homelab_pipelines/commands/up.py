"""`homelab up`: Dagster with everything the homelab needs, the first proven backup, and the URL; until Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from homelab_pipelines.backup.configured import ConfiguredBackups
from homelab_pipelines.backup.errors import BackupError
from homelab_pipelines.backup.records import list_store
from homelab_pipelines.commands.output import say, show
from homelab_pipelines.inventory.loader import load
from homelab_pipelines.local_deployment import Deployment, launch, run_state, running
from homelab_pipelines.report import backup_rows, backup_table

JOB = "nightly_backup"


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM."""


def bring_up(deployment: Deployment, run: bool, stay: bool) -> int:
    """Start everything, run the nightly job if no fresh proof is there, show the table; 0 when all ended well."""
    stop = threading.Event()
    previous = {each: signal.signal(each, lambda *_: _stop(stop)) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ExitStack() as stack:
            started = time.monotonic()
            _demo(deployment, stack)
            configured = ConfiguredBackups(load(deployment.inventory), deployment.inventory.parent, deployment.home)
            for server, names in configured.discover().items():
                say(f"server {server}: {', '.join(names) or 'no database is chosen'}")
            say("starting Dagster (code server, daemon, webserver) …")
            check = stack.enter_context(running(deployment))
            say(f"Dagster is up after {time.monotonic() - started:.0f} s")
            outcome = 0
            if run and not _fresh(configured):
                outcome = _first_run(deployment, check)
            rows = _newest_rows(configured)
            show(backup_table(rows, title="newest backups"))
            for name, store in configured.stores():
                say(f"{name}: {store.location('')}")
            if any(row["status"] != "verified" for row in rows) or not rows:
                outcome = 1
            say(f"\nDagster UI: {deployment.url}\nCtrl-C ends everything that was started here.")
            while stay and not stop.wait(1.0):
                check()
            return outcome
    except _Stopped:
        return 130
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
        say("everything that was started here has ended")


def _stop(stop: threading.Event) -> None:
    if stop.is_set():
        return  # a second Ctrl-C does not cut the tidying short
    stop.set()
    raise _Stopped


def _demo(deployment: Deployment, stack: ExitStack) -> None:
    """Without an inventory, or with the demo's own, start the demo's server and fill it."""
    from homelab_pipelines.demo.data import ensure
    from homelab_pipelines.demo.inventory import is_demo, write_demo_inventory
    from homelab_pipelines.demo.server import demo_server

    if deployment.inventory.exists() and not is_demo(deployment.inventory, deployment.home):
        return
    if not deployment.inventory.exists():
        say(f"no {deployment.inventory.name} here: writing the demo homelab's")
    say("starting the demo's PostgreSQL server …")
    server = stack.enter_context(demo_server(deployment.home))
    if filled := ensure(server.dsn()):
        say(f"filled the demo's databases: {', '.join(filled)}")
    write_demo_inventory(deployment.inventory, deployment.home)


def _first_run(deployment: Deployment, check: Callable[[], None]) -> int:
    run_id = launch(deployment, JOB)
    say(f"running {JOB}: {deployment.url}/runs/{run_id}")
    seen: dict[str, str] = {}
    while True:
        check()
        state = run_state(deployment, run_id)
        for step, status in state.steps.items():
            if status in ("SUCCESS", "FAILURE", "SKIPPED") and seen.get(step) != status:
                seen[step] = status
                say(f"  {status.lower():8} {step}")
        if state.ended:
            if state.status != "SUCCESS":
                say(f"the run ended with {state.status}; why: {deployment.url}/runs/{run_id}")
            return 0 if state.status == "SUCCESS" else 1
        time.sleep(0.5)


def _fresh(configured: ConfiguredBackups) -> bool:
    """Whether every source has a verified backup no older than promised, so that nothing need be run now."""
    newest = {row["source"]: row for row in _newest_rows(configured)}
    now, promised = datetime.now(UTC), configured.homelab.backups.promise.age
    return all(
        (row := newest.get(source.id)) is not None
        and row["status"] == "verified"
        and set(row["targets"]) == set(configured.homelab.backups.targets)
        and now - datetime.fromisoformat(row["taken_at"]) < promised
        for source in configured.instances().values()
    )


def _newest_rows(configured: ConfiguredBackups) -> list[dict[str, Any]]:
    """The newest backup of every source."""
    records = []
    for _, store in configured.stores():
        try:
            records += list_store(store).backups
        except BackupError as error:
            say(str(error))
    newest: dict[str, dict[str, Any]] = {}
    for row in backup_rows(records):
        newest.setdefault(row["source"], row)
    return sorted(newest.values(), key=lambda row: str(row["source"]))
