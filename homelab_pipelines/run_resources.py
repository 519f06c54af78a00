"""Resources of a run: the largest of what its assets ask for, as limits of a container or settings of a pod.

All steps of a run share its process (docs/decisions/07-in-process-executor.md), so it needs what the largest of them
does. It never gets less than its launcher's own settings give: assets that ask for nothing rely on these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from homelab_pipelines.backup.readable import readable_bytes
from homelab_pipelines.inventory.resources import RunResources

N = TypeVar("N", int, float)
RESOURCES = "homelab/resources"
"""Metadata of an asset, and a tag that the launcher is given with a run, both JSON."""
KUBERNETES_TAG = "dagster-k8s/config"
NANO = 1_000_000_000
_KINDS = ("requests", "limits")


class Contradiction(ValueError):
    """Two assets of a run cannot both have what they ask for."""


@dataclass(frozen=True)
class Resources:
    """`cpu` in cores, `memory` in bytes; node selector and tolerations as Kubernetes writes them."""

    cpu: float | None = None
    memory: int | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, str], ...] = ()

    @classmethod
    def of(cls, asked: RunResources) -> Resources:
        """What the inventory asks for."""
        tolerations = tuple(each.model_dump(exclude_none=True) for each in asked.tolerations)
        return cls(asked.cpu, asked.memory, dict(asked.node_selector), tolerations)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Resources:
        """The reverse of `to_json`."""
        return cls(
            value.get("cpu"),
            value.get("memory"),
            value.get("node_selector", {}),
            tuple(value.get("tolerations", ())),
        )

    def to_json(self) -> dict[str, Any]:
        """What is asked for; empty when that is nothing."""
        values = {
            "cpu": self.cpu,
            "memory": self.memory,
            "node_selector": dict(self.node_selector),
            "tolerations": [dict(each) for each in self.tolerations],
        }
        return {name: value for name, value in values.items() if value not in (None, {}, [])}

    def __str__(self) -> str:
        parts = [] if self.cpu is None else [f"{self.cpu:g} cores"]
        parts += [] if self.memory is None else [f"{readable_bytes(self.memory)} of memory"]
        parts += [f"a node with {label}={value}" for label, value in sorted(self.node_selector.items())]
        parts += [f"tolerance of {each['key']}" for each in self.tolerations]
        return ", ".join(parts)


def largest(asked: Mapping[str, Resources]) -> Resources:
    """What a run needs whose assets, by name, ask for this. Raises Contradiction when no node can have it all."""
    selector: dict[str, str] = {}
    of: dict[str, str] = {}
    for asset, resources in asked.items():
        for label, value in resources.node_selector.items():
            if selector.setdefault(label, value) != value:
                first = f"{of[label]} asks for a node with {label}={selector[label]}"
                raise Contradiction(f"{first}, and {asset} for one with {label}={value}")
            of.setdefault(label, asset)
    tolerations = {
        json.dumps(dict(each), sort_keys=True): each for every in asked.values() for each in every.tolerations
    }
    return Resources(
        _most([each.cpu for each in asked.values()]),
        _most([each.memory for each in asked.values()]),
        selector,
        tuple(tolerations.values()),
    )


def _most(values: list[N | None]) -> N | None:
    return max((value for value in values if value is not None), default=None)


def docker_limits(asked: Resources, defaults: Mapping[str, Any], bytes_of: Callable[[Any], int]) -> dict[str, Any]:
    """Arguments of docker-py's `create`, `defaults` being those of the launcher; `bytes_of` reads their sizes."""
    limits: dict[str, Any] = {}
    if asked.memory is not None:
        limits["mem_limit"] = max(asked.memory, bytes_of(defaults.get("mem_limit") or 0))
    if asked.cpu is not None:
        limits["nano_cpus"] = max(round(asked.cpu * NANO), int(defaults.get("nano_cpus") or 0))
    return limits


def kubernetes_config(asked: Resources, defaults: Mapping[str, Any], number_of: Callable[[Any], Any]) -> dict[str, Any]:
    """The value of the tag dagster-k8s/config: what is more than `defaults`, the launcher's `resources`, give.

    `number_of` reads quantities as Kubernetes writes them.
    """
    wanted = {name: value for name, value in (("cpu", asked.cpu), ("memory", asked.memory)) if value is not None}
    given = {kind: {name: number_of(each) for name, each in (defaults.get(kind) or {}).items()} for kind in _KINDS}
    resources: dict[str, dict[str, str]] = {kind: {} for kind in _KINDS}
    for name, value in wanted.items():
        # A limit below what is requested would be refused.
        most = max(value, given["requests"].get(name, 0))
        for kind in _KINDS:
            if given[kind].get(name, 0) < most:
                resources[kind][name] = f"{float(most):g}" if name == "cpu" else str(int(most))
    container = {kind: each for kind, each in resources.items() if each}
    pod = {
        **({"node_selector": dict(asked.node_selector)} if asked.node_selector else {}),
        **({"tolerations": [dict(each) for each in asked.tolerations]} if asked.tolerations else {}),
    }
    return {
        **({"container_config": {"resources": container}} if container else {}),
        **({"pod_spec_config": pod} if pod else {}),
    }
