"""Where the run workers of this deployment are, as the run launcher of its dagster.yaml says. No policy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import yaml

from homelab_pipelines.housekeeping.run_workers import Backend
from homelab_pipelines.socket_proxy import DEPLOYMENT_LABEL
from homelab_pipelines.socket_proxy import LAUNCHERS as DOCKER_LAUNCHERS

REAPER_VARIABLE = "HOMELAB_REAPER"
"""Address of the engine, or of the proxy through which runs may remove finished containers; else docker's own."""


def backends(instance: dg.DagsterInstance) -> tuple[list[Backend], list[str]]:
    """Those that can be asked, and of each launcher of which there is nothing to reap why not."""
    found: list[Backend] = []
    said: list[str] = []
    for name, kind, settings in _launchers(instance):
        if "container_kwargs" in settings or kind in DOCKER_LAUNCHERS:
            backend = _docker(settings)
        elif "job_namespace" in settings or kind == "K8sRunLauncher":
            backend = _kubernetes(settings)
        elif kind == "DefaultRunLauncher":
            backend = "its runs are processes, of which nothing stays"
        else:
            backend = f"what {kind} leaves behind is not known here"
        if isinstance(backend, str):
            said.append(f"{name}: {backend}")
        else:
            found.append(backend)
    return found, said


def _docker(settings: Mapping[str, Any]) -> Backend | str:
    from homelab_pipelines.housekeeping.docker_workers import DockerWorkers  # lazy: of use in a run alone

    labels = (settings.get("container_kwargs") or {}).get("labels")
    deployment = labels.get(DEPLOYMENT_LABEL) if isinstance(labels, dict) else None
    if not deployment:
        return f"its containers carry no label {DEPLOYMENT_LABEL}, so they may be another's"
    return DockerWorkers(str(deployment), os.environ.get(REAPER_VARIABLE))


def _kubernetes(settings: Mapping[str, Any]) -> Backend | str:
    spec = (settings.get("run_k8s_config") or {}).get("job_spec_config") or {}
    seconds = spec.get("ttl_seconds_after_finished", spec.get("ttlSecondsAfterFinished"))
    if seconds is not None:
        return f"Kubernetes itself removes each job {seconds} seconds after its end"
    deployment = (settings.get("labels") or {}).get(DEPLOYMENT_LABEL)
    if not deployment:
        return f"its jobs carry no label {DEPLOYMENT_LABEL}, so they may be another's"
    from homelab_pipelines.housekeeping.kubernetes_workers import (
        KubernetesWorkers,
    )  # lazy: half a second, in a run alone

    kubeconfig = None if settings.get("load_incluster_config", True) else settings.get("kubeconfig_file")
    in_cluster = bool(settings.get("load_incluster_config", True))
    return KubernetesWorkers(str(deployment), _text(settings.get("job_namespace", "default")), in_cluster, kubeconfig)


def _launchers(instance: dg.DagsterInstance) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Name, class and settings of the instance's launcher, or of each that it holds."""
    data = instance.get_ref().run_launcher_data
    if data is None:
        return
    settings = yaml.safe_load(data.config_yaml) or {}
    held = settings.get("launchers")
    if held is None:
        yield data.class_name, data.class_name, settings
        return
    for name, launcher in held.items():
        yield name, launcher["class"], launcher.get("config") or {}


def _text(value: Any) -> str:
    """A setting that may be written `{env: NAME}`."""
    return os.environ[value["env"]] if isinstance(value, dict) else str(value)
