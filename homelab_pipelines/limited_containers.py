"""Dagster's run launcher for Docker, whose containers have the limits that the assets of a run ask for."""

from __future__ import annotations

import json

import dagster as dg
from dagster_docker import DockerRunLauncher
from dagster_docker.container_context import DockerContainerContext
from docker.utils import parse_bytes

from homelab_pipelines.run_resources import RESOURCES, Resources, docker_limits


class LimitedRunLauncher(DockerRunLauncher):
    """Launches runs in Docker containers, as its base does, which reads no tags."""

    def get_container_context(self, dagster_run: dg.DagsterRun) -> DockerContainerContext:
        """How a run's container is made: with the resources that RoutingRunLauncher has given with the run."""
        context: DockerContainerContext = super().get_container_context(dagster_run)
        asked = dagster_run.tags.get(RESOURCES)
        if asked is None:
            return context
        limits = docker_limits(Resources.from_json(json.loads(asked)), context.container_kwargs, parse_bytes)
        limited: DockerContainerContext = context.merge(DockerContainerContext(container_kwargs=limits))
        return limited
