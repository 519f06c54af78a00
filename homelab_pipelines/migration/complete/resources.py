"""Memory and processors.

Accounts for `deploy.resources`, `mem_limit`, `mem_reservation`, `cpus`, `cpu_shares` and their kin.
Kompose writes bytes as bare numbers, and drops all but limits and reservations of memory and cpu.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.draft import Draft, Object
from homelab_pipelines.migration.known_images import is_database
from homelab_pipelines.migration.values import amount, cpu_quantity, quantity, size_in_bytes

# What a container asks for that says nothing: enough for the scheduler to see it, little enough for a Raspberry Pi.
_DEFAULT = {"cpu": "25m", "memory": "64Mi"}
_DATABASE = {"cpu": "100m", "memory": "256Mi"}
_NOT_THERE = {
    "memswap_limit": "nodes of Kubernetes have no swap of their own for a container",
    "mem_swappiness": "nodes of Kubernetes have no swap of their own for a container",
    "cpuset": "the kubelet gives out processors, not the pod",
    "cpu_count": "a number of processors is for Windows",
    "cpu_percent": "a percentage of processors is for Windows",
    "cpu_rt_runtime": "Kubernetes has no real-time scheduling",
    "cpu_rt_period": "Kubernetes has no real-time scheduling",
    "cpu_period": "Kubernetes chooses the period of its limits",
    "cpu_quota": "write cpus, which says the same without a period",
    "blkio_config": "Kubernetes limits no disk access",
    "oom_kill_disable": "the kernel ends a container that needs more than its limit",
    "oom_score_adj": "the kubelet sets it from requests and limits",
    "pids_limit": "the kubelet has one limit for all pods: podPidsLimit",
    "storage_opt": "a limit of the container's disk is resources.limits.ephemeral-storage",
}


def apply(draft: Draft) -> None:
    """Set requests and limits; a request for each container that says nothing."""
    for name, service, path in draft.services():
        resources: Object = draft.containers[name].setdefault("resources", {})
        deploy = (service.get("deploy") or {}).get("resources") or {}
        where = (*path, "deploy", "resources")
        if not deploy:
            draft.ledger.carried(where, "nothing is set")
        for part, field in (("limits", "limits"), ("reservations", "requests")):
            _section(draft, name, deploy.get(part) or {}, (*where, part), resources, field)
        for key, field, unit in (("mem_limit", "limits", "memory"), ("mem_reservation", "requests", "memory"),
                                 ("cpus", "limits", "cpu"), ("cpu_shares", "requests", "cpu")):  # fmt: skip
            if key in service:
                value = float(service[key]) / 1024 if key == "cpu_shares" else service[key]
                text = quantity(size_in_bytes(value)) if unit == "memory" else cpu_quantity(value)
                resources.setdefault(field, {}).setdefault(unit, text)
                draft.ledger.carried((*path, key), draft.to_container(name, f"resources.{field}.{unit}"))
        for key, reason in _NOT_THERE.items():
            if key in service:
                draft.ledger.dropped((*path, key), reason)
        _defaults(resources, is_database(str(service.get("image", ""))))
        _within_limits(resources)


def _section(draft: Draft, name: str, section: Mapping[str, Any], path: Path, resources: Object, field: str) -> None:
    for key, value in section.items():
        if key in ("cpus", "memory"):
            unit = "cpu" if key == "cpus" else "memory"
            text = cpu_quantity(value) if unit == "cpu" else quantity(size_in_bytes(value))
            resources.setdefault(field, {})[unit] = text
            draft.ledger.carried((*path, key), draft.to_container(name, f"resources.{field}.{unit}"))
        elif key == "pids":
            draft.ledger.dropped((*path, key), _NOT_THERE["pids_limit"])
        elif key == "generic_resources":
            draft.ledger.blocked((*path, key), "a generic resource needs a device plugin of the cluster")


def _defaults(resources: Object, database: bool) -> None:
    """Requests where there is neither a request nor a limit, which Kubernetes would take for the request."""
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for unit, value in (_DATABASE if database else _DEFAULT).items():
        if unit not in limits and unit not in requests:
            resources.setdefault("requests", {})[unit] = value


def _within_limits(resources: Object) -> None:
    """A request above its limit is refused: the limit is what the container gets."""
    for unit, limit in resources.get("limits", {}).items():
        asked = resources.get("requests", {}).get(unit)
        if asked is not None and amount(asked) > amount(limit):
            resources["requests"][unit] = limit
