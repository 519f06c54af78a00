"""The code server's container: Dagster's code server, and beside it what keeps its asset graph true.

`python -m homelab_pipelines.commands.serve_code [HOST [PORT]]`: where the webserver is, which is told to reload.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from homelab_pipelines.backup.configured import ConfiguredBackups, inventory_path, state_home
from homelab_pipelines.backup.errors import BackupError
from homelab_pipelines.commands.output import say
from homelab_pipelines.commands.up import Graph
from homelab_pipelines.container_health import CODE_SERVER_PORT, WEBSERVER_PORT
from homelab_pipelines.inventory.problems import InventoryInvalid
from homelab_pipelines.local_deployment import Deployment

_COMMAND = ("dagster", "code-server", "start", "--host", "0.0.0.0", "--port", str(CODE_SERVER_PORT))  # noqa: S104
_MODULE = ("--module-name", "homelab_pipelines.definitions")


def serve(webserver: Deployment) -> int:
    """Discover, then serve until ended; the code server's exit status."""
    found: dict[str, list[str]] = {}
    try:
        configured = ConfiguredBackups.read(webserver.inventory, webserver.home)
        found, failed = configured.discover()
        for error in failed.values():
            say(str(error))
    except (InventoryInvalid, BackupError, OSError) as error:
        say(str(error))  # Dagster shows a broken inventory in its UI; servers that are down now may come
    server = subprocess.Popen((*_COMMAND, *_MODULE))
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: server.terminate())
    graph = Graph(webserver, found)
    while server.poll() is None:
        graph.look()
        time.sleep(1.0)
    return server.returncode


def main(arguments: list[str]) -> int:
    """Serve for the webserver that the arguments name."""
    host = arguments[0] if arguments else "webserver"
    port = int(arguments[1]) if len(arguments) > 1 else WEBSERVER_PORT
    return serve(Deployment(inventory_path(), state_home(), port, host))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
