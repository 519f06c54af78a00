"""Containers of runs on a Docker Engine, by the labels that the run launcher gives them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, NotFound

from homelab_pipelines.housekeeping.errors import HousekeepingError
from homelab_pipelines.housekeeping.run_workers import Worker
from homelab_pipelines.socket_proxy import DEPLOYMENT_LABEL, RUN_LABEL

ENDED = ("exited", "dead", "created")
"""States in which a container does nothing; `created`: it was never started."""
_NEXT = "is the Docker Engine up, and may a run reach it? docs/how-to/housekeeping.md"


class DockerWorkers:
    """The run containers of a deployment; `address` is the engine's, or that of a proxy that lets these be removed."""

    def __init__(self, deployment: str, address: str | None) -> None:
        self._deployment = deployment
        self._address = address

    def workers(self) -> list[Worker]:
        """As Backend."""
        labels = [f"{DEPLOYMENT_LABEL}={self._deployment}", RUN_LABEL]
        try:
            client = self._client()
            found = client.api.containers(all=True, filters={"label": labels})
            return [worker for each in found if (worker := _worker(client, each)) is not None]
        except (DockerException, requests.RequestException) as error:
            raise HousekeepingError(f"listing the run containers of {self._deployment}", str(error), _NEXT) from error

    def remove(self, worker: Worker) -> None:
        """As Backend; with the volumes that were made for it alone."""
        try:
            self._client().api.remove_container(worker.id, v=True)
        except NotFound:
            return
        except (DockerException, requests.RequestException) as error:
            why = error.explanation if isinstance(error, APIError) and error.explanation else error
            raise HousekeepingError(f"removing {worker}", str(why), _NEXT) from error

    def _client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self._address) if self._address else docker.from_env()


def _worker(client: docker.DockerClient, listed: dict[str, Any]) -> Worker | None:
    try:
        inspected = client.api.inspect_container(listed["Id"])
    except NotFound:  # it went meanwhile
        return None
    state = str(inspected["State"]["Status"])
    moment = inspected["Created"] if state == "created" else inspected["State"]["FinishedAt"]
    return Worker(
        backend="container",
        id=str(inspected["Id"]),
        name=str(inspected["Name"]).lstrip("/"),
        run_id=str(inspected["Config"]["Labels"][RUN_LABEL]),
        state=state,
        # RFC 3339 with nanoseconds, of which Python reads six digits: docs.docker.com/reference/api/engine
        ended=datetime.fromisoformat(moment[:19]).replace(tzinfo=UTC) if state in ENDED else None,
    )
