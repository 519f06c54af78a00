"""`Draft`: the Kubernetes objects of a stack while transforms work on them, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.kompose import KomposeOutput
from homelab_pipelines.migration.ledger import Ledger
from homelab_pipelines.migration.names import Names, label
from homelab_pipelines.migration.stack import Stack

Object = dict[str, Any]
SERVICE_LABEL = "homelab-pipelines.service/"
NETWORK_LABEL = "homelab-pipelines.network/"
VOLUME_LABEL = "homelab-pipelines.volume/"


@dataclass(frozen=True)
class Policy:
    """What Compose does not say and a homelab chooses once: sizes and classes of claims, the time zone.

    `storage_class` and `database_class` None mean the cluster's default class. `shared_class` is for claims that pods
    on several nodes use at once (NFS); without one, such pods are kept on one node.
    """

    claim_size: str = "10Gi"
    storage_class: str | None = None
    database_class: str | None = None
    shared_class: str | None = None
    ingress_namespace: str = "kube-system"
    time_zone: str = "Etc/UTC"
    wait_image: str = "docker.io/library/busybox:1.37.0"
    job_wait_image: str = "registry.k8s.io/kubectl:v1.34.2"


@dataclass(frozen=True)
class Copy:
    """Data that has to be in a claim before the stack starts: from a path of the host, or a Docker volume."""

    source: str
    claim: str
    services: tuple[str, ...]


@dataclass
class Pod:
    """One workload: a service of Compose, with those that live in its network."""

    name: str
    services: list[str]
    kind: str = "Deployment"
    replicas: int | None = 1
    spec: Object = field(default_factory=dict)
    containers: list[Object] = field(default_factory=list)
    init: list[Object] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    job: Object = field(default_factory=dict)
    order: int = 0

    def add_volume(self, volume: Object) -> None:
        """Add a volume to the pod, once."""
        volumes = self.spec.setdefault("volumes", [])
        if volume not in volumes:
            volumes.append(volume)


@dataclass
class Draft:
    """What is known and made so far.

    `secrets` and `config` are contents by object name and key; `mounted_texts` the files that each service is given.
    `exposed` are container ports that Compose published, `routed` those that an ingress controller dials.
    """

    stack: Stack
    kompose: KomposeOutput
    ledger: Ledger
    policy: Policy
    namespace: str
    names: Names = field(default_factory=lambda: Names(52))  # a Job's pods get 11 characters more
    network_names: Names = field(default_factory=lambda: Names(52))
    pods: dict[str, Pod] = field(default_factory=dict)
    containers: dict[str, Object] = field(default_factory=dict)
    objects: list[Object] = field(default_factory=list)
    config: dict[str, dict[str, bytes]] = field(default_factory=dict)
    secrets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    secret_values: frozenset[str] = frozenset()
    mounted_texts: list[tuple[str, str]] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    requirements: list[str] = field(default_factory=list)
    ports: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    exposed: dict[str, set[tuple[int, str]]] = field(default_factory=dict)
    routed: dict[str, set[int]] = field(default_factory=dict)

    def services(self) -> Iterator[tuple[str, Mapping[str, Any], Path]]:
        """Name, configuration and path of every service."""
        for name, service in (self.stack.model.get("services") or {}).items():
            yield name, service, ("services", name)

    def having(self, key: str) -> Iterator[tuple[str, Any, Path]]:
        """Name of the service, value and path, for each service that has `key`."""
        for name, service, path in self.services():
            if key in service:
                yield name, service[key], (*path, key)

    def to(self, service: str, where: str) -> str:
        """Where in the objects something of a service went."""
        pod = self.pods[service]
        return f"{pod.kind}/{pod.name}: {where}"

    def to_container(self, service: str, where: str) -> str:
        """The same, in the service's container."""
        return self.to(service, f"containers[{self.containers[service]['name']}].{where}")

    def container_security(self, service: str) -> Object:
        """The security context of a service's container."""
        found: Object = self.containers[service].setdefault("securityContext", {})
        return found

    def pod_security(self, service: str) -> Object:
        """The security context of a service's pod."""
        found: Object = self.pods[service].spec.setdefault("securityContext", {})
        return found

    def require(self, text: str) -> None:
        """Note something that has to be there before the objects are applied."""
        if text not in self.requirements:
            self.requirements.append(text)

    def distinct_pods(self) -> list[Pod]:
        """Every pod once, in the order of the services."""
        return list({id(pod): pod for pod in self.pods.values()}.values())

    def holds_secret(self, text: str) -> bool:
        """Whether a text repeats a value of the stack that is known to be a secret."""
        return any(value in text for value in self.secret_values)

    def service_key(self, service: str) -> str:
        """The label of the pod that a service is in."""
        return f"{SERVICE_LABEL}{self.names.name(service)}"

    def network_key(self, network: str) -> str:
        """The label of pods in one of the model's networks; an external one has the same in every stack."""
        settings = (self.stack.model.get("networks") or {}).get(network) or {}
        if settings.get("external"):
            return f"{NETWORK_LABEL}{label(str(settings.get('name') or network), 52)}"
        return f"{NETWORK_LABEL}{self.network_names.name(network)}"

    def networks_of(self, service: str) -> list[str]:
        """The names of the networks that a service is in, as keys of the model's `networks`."""
        configuration = self.stack.model["services"][service]
        return list(configuration.get("networks") or {})
