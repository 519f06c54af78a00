"""Dagster's run launcher for Docker, saying in words how a run's container ended and what to do.

Its own words are "Container status is exited" and the engine's JSON; they stand in the run's log and in alerts.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import dagster as dg
import docker.errors
import requests
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster_docker import DockerRunLauncher
from dagster_docker.docker_run_launcher import DOCKER_CONTAINER_ID_TAG

from homelab_pipelines.backup.readable import readable_bytes

_ENDED = ("exited", "dead")
_LOG_LINES = 5
_LOG_WIDTH = 400
# 128 and the number of the signal (bash(1), EXIT STATUS); Docker says the same of a container's first process.
_KILLED, _TERMINATED = 137, 143


class ContainerRunLauncher(DockerRunLauncher):
    """Launches runs in Docker containers, as its base does."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start a run's container. Raises what docker-py raises; ConnectionError when the engine does not answer."""
        try:
            super().launch_run(context)
        except (requests.RequestException, docker.errors.DockerException) as error:
            if isinstance(error, docker.errors.APIError) and error.status_code != HTTPStatus.BAD_GATEWAY:
                raise
            raise ConnectionError(
                f"the Docker Engine does not answer: {error}\n"
                "  next: systemctl status docker; homelab up --docker; then start the run again from the UI"
            ) from error

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """How a run's container is. Raises what docker-py raises when the engine does not answer.

        One that is paused counts as running: it goes on when someone lets it, and a second one beside it must not.
        """
        identifier = run.tags.get(DOCKER_CONTAINER_ID_TAG)
        if identifier is None:
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "no container was made for the run")
        container = self._get_container(run)  # type: ignore[no-untyped-call]
        if container is None:
            return CheckRunHealthResult(
                WorkerStatus.NOT_FOUND,
                f"the run's container {identifier[:12]} is gone: it was removed while the run was under way, by hand or"
                " by docker container prune",
            )
        if container.status not in _ENDED:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"the run's container {_end(container)}")

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """What is to be added for a run that did not start or end in time: how its container is."""
        container = self._get_container(run)  # type: ignore[no-untyped-call]
        if container is None:
            return "There is no container of this run."
        if container.status not in _ENDED:
            return f"The run's container {container.short_id} is {container.status}."
        # Of a run that was under way, its end has been said as the cause already.
        return f"The run's container {_end(container)}" if include_container_logs else None


def _end(container: Any) -> str:
    """Which container it was and how it ended; with the end of its log, where it ended by itself."""
    state = container.attrs["State"]
    said = f"{container.short_id} {how_it_ended(state, container.attrs['HostConfig'].get('Memory') or 0)}"
    if state["ExitCode"] in (_KILLED, _TERMINATED):
        return said
    log = container.logs(tail=_LOG_LINES).decode(errors="replace")
    lines = [f"\n  {line[:_LOG_WIDTH]}" for line in log.splitlines()]
    return "".join([said, "; its log ends:", *lines]) if lines else said


def how_it_ended(state: Mapping[str, Any], memory: int) -> str:
    """The end of a container in words: `state` as the engine inspects it, `memory` its limit in bytes, 0 for none."""
    status = state["ExitCode"]
    if state.get("OOMKilled"):
        limit = f"its limit of {readable_bytes(memory)}" if memory else "the machine has"
        return (
            f"was killed by the kernel: it needed more memory than {limit}; next: raise mem_limit of run_launcher in"
            " .homelab/docker/local.dagster.yaml, then homelab up --docker"
        )
    if status == _KILLED:
        return "was killed (SIGKILL): by hand, by Docker when it stopped, or because the machine had no memory left"
    if status == _TERMINATED:
        return "was told to end (SIGTERM): by hand, or because Docker or the machine was stopped"
    reason = f" ({state['Error']})" if state.get("Error") else ""
    return f"ended with status {status} before the run did{reason}"
