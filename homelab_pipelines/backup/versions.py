"""Which versions took part in a backup."""

from __future__ import annotations

from importlib.metadata import version

from homelab_pipelines.backup.connection import Connection, Direct
from homelab_pipelines.backup.processes import running
from homelab_pipelines.backup.programs import client_for


def program_versions(connection: Connection, server_major: int) -> dict[str, str]:
    """pg_dump (this machine's, or the container's own), and the Python packages that shape the stored bytes."""
    if isinstance(connection.place, Direct):
        dump = client_for(server_major).version
    else:
        with running(connection.command("pg_dump", "--version", server_major=server_major)) as process:
            dump = process.output.read().decode(errors="replace").strip().removeprefix("pg_dump (PostgreSQL) ")
    packages = {name: version(name) for name in ("homelab-pipelines", "zstandard", "pyrage")}
    return {"pg_dump": dump, **packages}
