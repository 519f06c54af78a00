"""`homelab check --connect`: every server, program, target and key, asked now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from homelab_pipelines.backup.configured import ConfiguredBackups
from homelab_pipelines.backup.connection import Direct
from homelab_pipelines.backup.errors import BackupError
from homelab_pipelines.backup.programs import client_for
from homelab_pipelines.backup.server import server_facts
from homelab_pipelines.backup.session import connect
from homelab_pipelines.commands.output import say
from homelab_pipelines.inventory.problems import Problem


def check_connections(shown: Path, quiet: bool) -> list[Problem]:
    """What cannot be used, as problems of the file `shown`; unless `quiet`, says of each thing how it was found."""
    configured = ConfiguredBackups.from_environment()
    problems = []
    for what, look in _looks(configured):
        try:
            found = look()
        except BackupError as error:
            problems.append(Problem(str(shown), 0, 0, f"{what}: {error.what}: {error.why}", error.next_step))
            if not quiet:
                say(f"FAILED {what}: {error}")
        else:
            if not quiet:
                say(f"ok     {what}: {found}")
    return problems


def _looks(configured: ConfiguredBackups) -> Iterator[tuple[str, Callable[[], str]]]:
    for name in configured.homelab.databases:
        yield f"server {name}", partial(_server, configured, name)
    for name in configured.homelab.backups.targets:
        yield f"target {name}", partial(_target, configured, name)
    if configured.homelab.backups.identity is not None:
        yield "age identity", partial(_identity, configured)


def _server(configured: ConfiguredBackups, name: str) -> str:
    connection = configured.connection(name)
    with connect(connection) as session:
        facts = server_facts(session)
    choice = configured.choice(name)
    if choice.fault is not None:
        raise choice.fault
    chosen = choice.chosen
    programs = (
        f"pg_dump {client_for(facts.major).version}" if isinstance(connection.place, Direct) else "its own pg_dump"
    )
    return f"PostgreSQL {facts.version}, {programs}, {len(chosen)} databases: {', '.join(chosen)}"


def _target(configured: ConfiguredBackups, name: str) -> str:
    store = configured.store(name)
    store.check()
    return store.location("")


def _identity(configured: ConfiguredBackups) -> str:
    return f"{len(configured.identities())} found"
