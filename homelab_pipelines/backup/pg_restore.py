"""Running pg_restore on an archive that was unpacked, and telling its failures from what does no harm."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from pathlib import Path

from homelab_pipelines.backup.connection import Connection, Direct
from homelab_pipelines.backup.errors import RestoreFailed
from homelab_pipelines.backup.manifest import Manifest
from homelab_pipelines.backup.processes import describe_exit
from homelab_pipelines.backup.programs import client_for

_MESSAGE_LIMIT = 8192
_COMMAND_LIMIT = 200
# pg_restore 17 and newer sets it whatever the server (pg_backup_archiver.c, _doSetFixedOutputState); servers before 17
# do not know it.
_NEW_SETTING, _NEW_SETTING_MAJOR = 'unrecognized configuration parameter "transaction_timeout"', 17


def run_pg_restore(
    connection: Connection,
    database: str,
    dump: Path,
    manifest: Manifest,
    server_major: int,
    *,
    jobs: int,
    owners: bool,
    scratch: bool,
) -> None:
    """Restore `dump` into the empty `database` of a server of `server_major`. Raises RestoreFailed.

    The version of pg_restore is not older than that of the pg_dump that wrote the archive, and may be newer than the
    server. `scratch`: without tablespaces and subscriptions. `owners`: with owners and privileges.
    """
    dump_major = int(manifest.programs.get("pg_dump", "0").split(".")[0] or 0)
    wanted = max(manifest.server_major, dump_major)
    direct = isinstance(connection.place, Direct)
    tolerant = direct and server_major < _NEW_SETTING_MAJOR <= client_for(wanted).major
    command = connection.command(
        "pg_restore",
        *(() if tolerant else ("--exit-on-error",)),
        "--no-password",
        *(("--no-tablespaces", "--no-subscriptions") if scratch else ()),
        *(() if owners else ("--no-owner", "--no-privileges")),
        *(("--jobs", str(jobs)) if direct else ()),
        "--dbname",
        connection.conninfo(database),
        *((str(dump),) if direct else ()),
        server_major=wanted,
    )
    with tempfile.TemporaryFile() as messages, dump.open("rb") as archive:
        process = subprocess.Popen(
            command.arguments,
            stdin=subprocess.DEVNULL if direct else subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=messages,
            env=command.full_environment(),
        )
        try:
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError), process.stdin:
                    if command.first_line is not None:
                        process.stdin.write(command.first_line.encode() + b"\n")
                    while chunk := archive.read(1 << 20):
                        process.stdin.write(chunk)
            status = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        messages.seek(0)
        said = messages.read().decode(errors="replace").strip()
    if status != 0 and not (tolerant and status == 1 and _only_the_new_setting(said)):
        raise RestoreFailed(
            f"restoring {manifest.source} {manifest.id} into {connection}",
            describe_exit(status, without_values(said)[:_MESSAGE_LIMIT]),
            "mend what the message names (an extension to install, a superuser to use), then try again",
        )


def without_values(said: str) -> str:
    """The messages of pg_restore with its `Command was:` cut before the first value.

    CREATE USER MAPPING and CREATE SUBSCRIPTION hold passwords, and a message goes into logs and proofs.
    """
    shown = []
    for message in re.split(r"^(?=pg_restore: )", said, flags=re.MULTILINE):
        text, separator, command = message.partition("Command was: ")
        start = re.split(r"['$]", command)[0][:_COMMAND_LIMIT].rstrip()
        shown.append(f"{text}{separator}{start}{' …' if start != command.rstrip() else ''}".rstrip())
    return "\n".join(part for part in shown if part)


def _only_the_new_setting(said: str) -> bool:
    """Whether everything that pg_restore could not do was to set what this server does not know."""
    errors = [line for line in said.splitlines() if "error:" in line.lower()]
    return bool(errors) and all(_NEW_SETTING in line for line in errors)
