"""`homelab up`: Dagster with everything the homelab needs, the first proven backup, and the URL; until Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from homelab_pipelines.backup.configured import REMEMBERED, ConfiguredBackups
from homelab_pipelines.backup.errors import BackupError, ChoiceFailed
from homelab_pipelines.backup.records import list_store
from homelab_pipelines.commands.discovering import described
from homelab_pipelines.commands.output import print_json, say, show
from homelab_pipelines.inventory.problems import InventoryInvalid
from homelab_pipelines.local_deployment import (
    Deployment,
    DeploymentFailed,
    launch,
    only_one,
    reload,
    run_state,
    running,
    unfinished_before,
)
from homelab_pipelines.report import backup_rows, backup_table

JOB = "nightly_backup"
DISCOVER_SECONDS = 600.0


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM."""


def bring_up(deployment: Deployment, run: bool, stay: bool, as_json: bool = False) -> int:
    """Start everything, run the nightly job if no fresh proof is there, show the table, and stay until Ctrl-C.

    `as_json` prints the table's rows as `homelab backups --json` does. 0 when all that was asked for was done; 130 when
    a signal came before that.
    """
    stop = threading.Event()
    previous = {each: signal.signal(each, lambda *_: _stop(stop)) for each in (signal.SIGINT, signal.SIGTERM)}
    outcome: int | None = None
    started_any = False
    try:
        with ExitStack() as stack:
            started = time.monotonic()
            stack.enter_context(only_one(deployment))
            started_any = True
            _demo(deployment, stack)
            configured = ConfiguredBackups.read(deployment.inventory, deployment.home)
            silent, well_chosen = _say_databases(configured)
            # Before Dagster starts: what others write while it loads is then news, and loaded once more.
            graph = Graph(deployment, configured.known_databases())
            say("starting Dagster (code server, daemon, webserver) …")
            begun = datetime.now(UTC)
            check = stack.enter_context(running(deployment))
            say(f"Dagster is up after {time.monotonic() - started:.0f} s")
            _end_abandoned(deployment, begun)
            done = run_to_end(deployment, check) if run and not _fresh(configured) else 0
            rows = _newest_rows(configured)
            if as_json:
                print_json(rows)
            else:
                show(backup_table(rows, title="newest backups"))
            for name, store in configured.open_stores()[0].items():
                say(f"{name}: {store.location('')}")
            if run and not (well_chosen and _proven(configured, rows)):
                done = 1
            if silent:
                say(f"NOT ALL IS WELL: no answer from server {', '.join(silent)}, see above; its backups are old ones")
                done = 1
            say(f"\nDagster UI: {deployment.url}")
            outcome = done
            if stay:
                say("Ctrl-C ends everything that was started here.")
            while stay and not stop.wait(1.0):
                check()
                graph.look()
            return outcome
    except _Stopped:
        return 130 if outcome is None else outcome
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
        if started_any:
            say("everything that was started here has ended")


def _say_databases(configured: ConfiguredBackups) -> tuple[list[str], bool]:
    """Ask the servers and say what they have; those that did not answer, and whether the patterns can be meant."""
    found, failed = configured.discover()
    for error in failed.values():
        say(str(error))
    for server, names in found.items():
        say(f"server {server}: {described(names, failed.get(server))}")
    wrong = [server for server, error in failed.items() if isinstance(error, ChoiceFailed)]
    return [server for server in failed if server not in wrong], not wrong


def _stop(stop: threading.Event) -> None:
    if stop.is_set():
        return  # a second Ctrl-C does not cut the tidying short
    stop.set()
    raise _Stopped


def _demo(deployment: Deployment, stack: ExitStack) -> None:
    """Without an inventory, or with a demo's own, start that demo's server and fill it; make again what is gone of it.

    An inventory that was written for another folder of state keeps its demo there: the port, the secrets and the
    backups that it names are there.
    """
    from homelab_pipelines.demo.data import ensure
    from homelab_pipelines.demo.inventory import complete_demo, demo_home, write_demo_inventory
    from homelab_pipelines.demo.server import demo_server

    inventory, home = deployment.inventory, deployment.home
    is_new = not inventory.exists()
    if is_new:
        say(f"no {inventory.name} here: writing the demo homelab's")
    else:
        found = demo_home(inventory)
        if found is None:
            return
        if found != home:
            say(f"{inventory.name} is the demo's of {found}: its server, secrets and backups stay there")
        home = found
        if made := complete_demo(inventory, home):
            say(f"made again what was gone of the demo: {'; '.join(made)}")
    say("starting the demo's PostgreSQL server …")
    server = stack.enter_context(demo_server(home))
    if filled := ensure(server.dsn()):
        say(f"filled the demo's databases: {', '.join(filled)}")
    if is_new:
        write_demo_inventory(inventory, home)


class Graph:
    """Keeps the asset graph true: a changed inventory, or a database that came or went, reloads the code location.

    `loaded` are the databases that the code location was loaded with. Only that tells whether it is behind: the file of
    what is known is written by `homelab discover` and `homelab backup` as well.
    """

    def __init__(self, deployment: Deployment, loaded: Mapping[str, list[str]]) -> None:
        self._deployment = deployment
        self._loaded = loaded
        self._inventory, self._databases = _changed_at(deployment.inventory), self._databases_changed_at()
        self._due = False
        self._asked = time.monotonic()

    def look(self) -> None:
        """Called every second; asks the servers every ten minutes. What is wrong is said, and the graph stays."""
        if (now := _changed_at(self._deployment.inventory)) != self._inventory:
            self._inventory = now
            self._due = True
            say(f"{self._deployment.inventory.name} has changed")
            self._reload()
        elif self._databases_changed_at() != self._databases or time.monotonic() - self._asked > DISCOVER_SECONDS:
            self._reload()

    def _reload(self) -> None:
        """Load anew what differs from what is loaded; an inventory that could not be loaded stays due."""
        deployment, self._asked = self._deployment, time.monotonic()
        try:
            configured = ConfiguredBackups.read(deployment.inventory, deployment.home)
            _, failed = configured.discover()
            databases = configured.known_databases()
            if self._due or databases != self._loaded:
                reload(deployment)
                self._loaded, self._due = databases, False
                for error in failed.values():
                    say(str(error))
                say("reloaded: " + "; ".join(f"{server}: {', '.join(names)}" for server, names in databases.items()))
        except (InventoryInvalid, BackupError, DeploymentFailed, OSError) as error:
            say(f"the assets stay as they were: {error}")
        self._databases = self._databases_changed_at()

    def _databases_changed_at(self) -> float | None:
        return _changed_at(self._deployment.home / REMEMBERED)


def _changed_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def run_to_end(deployment: Deployment, check: Callable[[], None]) -> int:
    """Launch the nightly job and say how each step ends; 0 when all ended well. `check` raises when a part has died."""
    run_id = launch(deployment, JOB)
    say(f"running {JOB}: {deployment.url}/runs/{run_id}")
    seen: dict[str, str] = {}
    while True:
        check()
        state = run_state(deployment, run_id)
        for step, status in state.steps.items():
            if status in ("SUCCESS", "FAILURE") and seen.get(step) != status:
                seen[step] = status
                say(f"  {status.lower():8} {step}")
        if state.ended:
            for step in sorted(set(state.planned) - set(state.steps)):
                say(f"  not run  {step}: what it rests on failed")
            if state.status != "SUCCESS":
                say(f"the run ended with {state.status}; why: {deployment.url}/runs/{run_id}")
            return 0 if state.status == "SUCCESS" else 1
        time.sleep(0.5)


def _fresh(configured: ConfiguredBackups) -> bool:
    """Whether every source has a proven backup on every target, no older than promised: then nothing need be run."""
    newest = {row["source"]: row for row in _newest_rows(configured)}
    now, promised = datetime.now(UTC), configured.homelab.backups.promise.age
    return all(
        (row := newest.get(source.id)) is not None
        and row["status"] == "verified"
        and set(row["targets"]) == set(configured.homelab.backups.targets)
        and now - datetime.fromisoformat(row["taken_at"]) < promised
        for source in configured.sources()
    )


def _proven(configured: ConfiguredBackups, rows: list[dict[str, Any]]) -> bool:
    return {row["source"] for row in rows if row["status"] == "verified"} >= {s.id for s in configured.sources()}


def _newest_rows(configured: ConfiguredBackups) -> list[dict[str, Any]]:
    """The newest backup of every source that the inventory still has."""
    records = []
    opened, failed = configured.open_stores()
    for store in opened.values():
        try:
            records += list_store(store).backups
        except BackupError as error:
            failed[store.name] = error
    for reason in failed.values():
        say(str(reason))
    known = {source.id for source in configured.sources()}
    newest: dict[str, dict[str, Any]] = {}
    for row in backup_rows(records):
        if row["source"] in known:
            newest.setdefault(row["source"], row)
    return sorted(newest.values(), key=lambda row: str(row["source"]))


def _end_abandoned(deployment: Deployment, begun: datetime) -> None:
    """What a former `homelab up` was killed in the middle of: it would hold its server's pool for a day."""
    if not unfinished_before(deployment, begun):
        return
    from dagster import DagsterInstance  # lazy: seconds that only this case pays

    from homelab_pipelines.commands.abandoned_runs import end_abandoned
    from homelab_pipelines.commands.telling import alerts_of, tell_abandoned

    with DagsterInstance.from_config(str(deployment.dagster_home)) as instance:
        for run_id in end_abandoned(instance, begun, launched_too=True):
            say(f"run {run_id} was left behind by a process that is gone: marked as failed")
            tell_abandoned(alerts_of(deployment.inventory), instance, run_id)
