"""`homelab discover`, and what other commands say of the databases that they found."""

from __future__ import annotations

from homelab_pipelines.backup.configured import ConfiguredBackups
from homelab_pipelines.backup.errors import BackupError, ChoiceFailed
from homelab_pipelines.commands.output import print_json, say


def discover_databases(as_json: bool) -> int:
    """Ask every server and remember the answers; 1 when one did not answer, or its patterns are wrong."""
    found, failed = ConfiguredBackups.from_environment().discover()
    for error in failed.values():
        say(str(error))
    if as_json:
        print_json(found)
    else:
        for server, names in found.items():
            say(f"{server}: {described(names, failed.get(server))}")
    return 1 if failed else 0


def described(names: list[str], error: BackupError | None) -> str:
    """The databases of a server in words; `error` is what `discover` found wrong with it."""
    known = error is not None and not isinstance(error, ChoiceFailed)
    return f"{', '.join(names) or 'no database is chosen'}{' (as known before)' if known else ''}"
