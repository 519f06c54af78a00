"""What can be told of a stack from its Compose files alone: where it keeps data, and what stands in a cluster's way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from homelab_pipelines.inventory.problems import Path, shown
from homelab_pipelines.migration.stack import Place, Stack

# Images that keep data by their nature, by the last part of their name; each has a volume in its Dockerfile or loses
# its data with the container.
DATABASE_IMAGES = frozenset(
    {
        "arangodb", "cassandra", "clickhouse", "clickhouse-server", "cockroach", "couchdb", "elasticsearch", "etcd",
        "influxdb", "keydb", "mariadb", "meilisearch", "minio", "mongo", "mongodb", "mssql", "mysql", "neo4j",
        "opensearch", "percona", "pgvector", "pgvecto-rs", "postgis", "postgres", "postgresql", "prometheus", "qdrant",
        "rabbitmq", "redis", "redis-stack", "redis-stack-server", "redismod", "rethinkdb", "timescaledb",
        "timescaledb-ha", "valkey", "victoria-metrics",
    }
)  # fmt: skip
# The machine's own files, which every host has: no data of the stack.
_OF_THE_MACHINE = ("/dev", "/etc", "/lib/modules", "/proc", "/run", "/sys", "/var/run")
_SOCKET = re.compile(r"(docker|podman|containerd)\.sock$")
_CONFIG_FILE = re.compile(r"\.(conf|cfg|cnf|ini|json|toml|ya?ml|xml|env|sh|sql|crt|pem|key|properties)$", re.I)


@dataclass(frozen=True)
class Reason:
    """One thing that was found about a service, and where it is written."""

    service: str
    message: str
    place: Place


def data_kept(stack: Stack) -> tuple[Reason, ...]:
    """Why a stack is stateful: named volumes, bind mounts that are written to, images of databases; empty: stateless.

    A bind mount counts as data unless it is read-only, a file of settings, or belongs to the machine (/etc, /dev).
    """
    return tuple(
        Reason(name, message, stack.place(path))
        for name, service in _services(stack)
        for path, message in _kept(("services", name), service)
    )


def blockers(stack: Stack) -> tuple[Reason, ...]:
    """What a cluster does not give as Compose does, so that a person must decide, as far as reading tells."""
    return tuple(
        Reason(name, message, stack.place(path))
        for name, service in _services(stack)
        for path, message in _blocking(("services", name), service)
    )


def _services(stack: Stack) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from (stack.model.get("services") or {}).items()


def _kept(at: Path, service: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    image = image_name(str(service.get("image") or ""))
    if image in DATABASE_IMAGES:
        yield (*at, "image"), f"{image} is a database"
    for index, mount in enumerate(service.get("volumes") or ()):
        source, target = str(mount.get("source") or ""), str(mount.get("target"))
        path = (*at, "volumes", index)
        if mount.get("type") == "volume" and not mount.get("read_only"):
            volume = f"volume {shown(source)}" if source else "a volume without a name"
            yield path, f"{volume} at {shown(target)}"
        elif mount.get("type") == "bind" and not mount.get("read_only") and not _is_no_data(source):
            yield path, f"bind mount at {shown(target)}"


def _is_no_data(source: str) -> bool:
    of_machine = any(source == folder or source.startswith(f"{folder}/") for folder in _OF_THE_MACHINE)
    return of_machine or bool(_SOCKET.search(source)) or bool(_CONFIG_FILE.search(source))


def image_name(image: str) -> str:
    """The last part of an image's name, without registry, tag and digest: `ghcr.io/a/postgres:17` → `postgres`."""
    return PurePosixPath(image.partition("@")[0]).name.partition(":")[0]


def _blocking(at: Path, service: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    for index, mount in enumerate(service.get("volumes") or ()):
        if _SOCKET.search(str(mount.get("source") or "")):
            yield (*at, "volumes", index), "the container engine's socket is mounted; a pod has none"
    for index, _ in enumerate(service.get("devices") or ()):
        yield (*at, "devices", index), "a device of the host is used; a node must have it, and hand it to the pod"
    mode = str(service.get("network_mode") or "")
    if mode == "host":
        yield (*at, "network_mode"), "the host's own network is used"
    elif mode.startswith(("service:", "container:")):
        yield (*at, "network_mode"), "the network of another container is used; both must be one pod"
    for key, what in (("pid", "processes"), ("ipc", "shared memory")):
        if service.get(key) == "host":
            yield (*at, key), f"the host's {what} are used"
    if service.get("privileged"):
        yield (*at, "privileged"), "it is privileged: it may do all that the host may"
    if service.get("build") and not service.get("image"):
        yield (*at, "build"), "its image is built here and has no name; a cluster pulls images by name"
