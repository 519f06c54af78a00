"""`homelab check --connect`: every server, program and target, asked now."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from homelab_pipelines.backup.configured import ConfiguredBackups
from homelab_pipelines.backup.connection import Direct
from homelab_pipelines.backup.errors import BackupError
from homelab_pipelines.backup.programs import client_for
from homelab_pipelines.backup.server import databases, server_facts
from homelab_pipelines.backup.session import connect
from homelab_pipelines.commands.output import say


def check_connections() -> int:
    """Say of each server and target whether it can be used; 1 when one cannot."""
    configured = ConfiguredBackups.from_environment()
    homelab = configured.homelab
    results = [_tried(f"server {name}", partial(_server, configured, name)) for name in homelab.databases]
    results += [_tried(f"target {name}", partial(_target, configured, name)) for name in homelab.backups.targets]
    results.append(_tried("age identity", lambda: f"{len(configured.identities())} found"))
    return 0 if all(results) else 1


def _tried(what: str, look: Callable[[], str]) -> bool:
    try:
        say(f"ok     {what}: {look()}")
    except BackupError as error:
        say(f"FAILED {what}: {error}")
        return False
    return True


def _server(configured: ConfiguredBackups, name: str) -> str:
    connection = configured.connection(name)
    with connect(connection) as session:
        facts = server_facts(session)
    entry = configured.server(name)
    chosen = [each for each in databases(connection) if entry.selects(each)]
    programs = (
        f"pg_dump {client_for(facts.major).version}" if isinstance(connection.place, Direct) else "its own pg_dump"
    )
    return f"PostgreSQL {facts.version}, {programs}, {len(chosen)} databases: {', '.join(chosen)}"


def _target(configured: ConfiguredBackups, name: str) -> str:
    store = configured.store(name)
    store.check()
    return store.location("")
