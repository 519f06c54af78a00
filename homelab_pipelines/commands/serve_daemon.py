"""The daemon's container: Dagster's daemon, once it is the only one on its storage and its code servers answer.

Two daemons launch each run and each tick of a schedule twice, and Dagster only warns of it. So the one that works holds
an advisory lock of PostgreSQL; another waits for it, and takes over when the first has ended.

After a restart of Docker all parts start at once. A daemon that is there before the code server sees the runs that
died, cannot start them again, and does not try a second time. So it waits.

`python -m homelab_pipelines.commands.serve_daemon --workspace FILE`
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import threading
import time
from pathlib import Path

import dagster as dg
import sqlalchemy as sa
import yaml
from dagster._daemon.cli import run_command

from homelab_pipelines.commands.output import say
from homelab_pipelines.container_health import code_server

_KEY = int.from_bytes(b"homelab", "big")
_LOOK_SECONDS = 5.0
_CODE_SECONDS = 180.0
# libpq's: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_GIVE_UP = {"connect_timeout": 10, "tcp_user_timeout": 15_000}
_HOLDER = """SELECT a.application_name || ' at ' || coalesce(host(a.client_addr), 'this machine')
    || ', connected since ' || to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI UTC')
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND (l.classid::bigint << 32) + l.objid::bigint = %s"""


class OnlyDaemon:
    """The right to be the daemon of one storage: a lock that a session of its PostgreSQL holds."""

    def __init__(self, url: str) -> None:
        name = f"homelab daemon {socket.gethostname()}"
        self._engine = sa.create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            poolclass=sa.pool.NullPool,
            connect_args={"application_name": name, **_GIVE_UP},
        )
        self._session: sa.Connection | None = None

    def held(self) -> bool:
        """Whether the lock is ours, taking it where it is free. Raises OperationalError when PostgreSQL is away."""
        if self._session is not None:
            try:
                self._session.exec_driver_sql("SELECT 1")
            except sa.exc.DBAPIError:
                self._session.invalidate()
                self._session = None
            else:
                return True
        session = self._engine.connect()
        if session.exec_driver_sql("SELECT pg_try_advisory_lock(%s)", (_KEY,)).scalar_one():
            self._session = session
            return True
        session.close()
        return False

    def holder(self) -> str:
        """Who has the lock, as PostgreSQL knows the session."""
        with self._engine.connect() as session:
            return str(session.exec_driver_sql(_HOLDER, (_KEY,)).scalar() or "one that has just ended")

    def wait(self) -> None:
        """Return once the lock is ours, saying at first whom this waits for."""
        said = False
        while not self.held():
            if not said:
                say(
                    f"another daemon works on this storage: {self.holder()}; this one waits until it has ended\n"
                    "  next: end one of the two, unless this one is to stand by"
                )
                said = True
            time.sleep(_LOOK_SECONDS)

    def keep(self) -> None:
        """Look now and then whether the lock is still ours; end this process once another daemon has it."""
        while True:
            time.sleep(_LOOK_SECONDS)
            try:
                if not self.held():
                    say(f"another daemon has taken over while PostgreSQL was away: {self.holder()}; this one ends")
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
            except sa.exc.OperationalError:
                continue  # the daemon itself says that its storage is away


def wait_for_code(workspace: Path) -> None:
    """Return once every code server of a workspace file answers, or after minutes: Dagster then says what is wrong."""
    deadline = time.monotonic() + _CODE_SECONDS
    for entry in yaml.safe_load(workspace.read_text())["load_from"]:
        server = entry.get("grpc_server", {})
        while server and (problem := code_server(server["port"], server["host"])):
            if time.monotonic() > deadline:
                say(f"{problem}; the daemon starts without it")
                return
            time.sleep(1.0)


def main(workspace: Path) -> None:
    """Wait for the lock and the code, then be the daemon until ended."""
    with dg.DagsterInstance.get() as instance:
        url = getattr(instance.run_storage, "postgres_url", None)
    if url is not None:  # `homelab up` sees to it that a folder with SQLite has one daemon
        only = OnlyDaemon(url)
        only.wait()
        threading.Thread(target=only.keep, name="only-daemon", daemon=True).start()
    wait_for_code(workspace)
    run_command.main(["--workspace", str(workspace)], prog_name="dagster-daemon run")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Dagster's daemon, alone on its storage.")
    parser.add_argument("--workspace", type=Path, required=True)
    main(parser.parse_args().workspace)
