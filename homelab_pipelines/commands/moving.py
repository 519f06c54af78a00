"""`homelab move-history`: Dagster's run history from this machine's SQLite files into PostgreSQL."""

from __future__ import annotations

from contextlib import ExitStack

import sqlalchemy as db

from homelab_pipelines.commands.dsn import connection_of, place_of, read_dsn
from homelab_pipelines.commands.output import print_json, progress_bar, say
from homelab_pipelines.housekeeping.move_history import move_history
from homelab_pipelines.housekeeping.sqlite_storage import SqliteStorage
from homelab_pipelines.local_deployment import Deployment, state_held


def move_run_history(deployment: Deployment, into: str, as_json: bool) -> int:
    """Copy the whole history into the database that `into` names; 0 when all of it is there.

    Raises MoveRefused, MoveFailed, and DeploymentFailed while a `homelab up` runs here.
    """
    url = _url(into)
    source = SqliteStorage.of(deployment.dagster_home)
    with ExitStack() as stack:
        stack.enter_context(state_held(deployment))
        source.expect_unused(say)
        moved = move_history(source, url, stack.enter_context(progress_bar("moving the run history")))
    if as_json:
        print_json({"copied": moved.copied, "replaced": moved.replaced, "kept_cursors": moved.kept_cursors})
        return 0
    runs, events, ticks = (moved.copied[table] for table in ("runs", "event_logs", "job_ticks"))
    say(f"copied {runs} runs, {events} events, {ticks} ticks, and what belongs to them")
    for table, rows in moved.replaced.items():
        say(f"  replaced {rows} rows of {table}, which a start of Dagster had left there")
    for sensor in moved.kept_cursors:
        say(f"  sensor {sensor} keeps its cursor as it is; if it counts events, reset it in the UI")
    say(f"{source.folder} stays as it was; the files of compute logs are not part of it")
    return 0


def _url(into: str) -> db.URL:
    """As SQLAlchemy wants it, with the driver that Dagster's storage works with."""
    parts = read_dsn(into)
    place, account = place_of(parts), connection_of(parts)
    reach = {"host": place.host, "port": str(place.port), "sslmode": place.sslmode}
    return db.URL.create(
        "postgresql+psycopg2", account.user, account.password, database=str(parts["dbname"]), query=reach
    )
