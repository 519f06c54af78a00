"""The transforms in their order: each may read what those before it made."""

from __future__ import annotations

from collections.abc import Callable

from homelab_pipelines.migration.complete import (
    bind_mounts,
    commands,
    dependencies,
    devices,
    environment,
    host_names,
    images,
    labels,
    leftovers,
    mounted_files,
    namespace,
    networks,
    placement,
    probes,
    resources,
    secret_values,
    security,
    services,
    traefik,
    volumes,
    workloads,
)  # fmt: skip
from homelab_pipelines.migration.draft import Draft

TRANSFORMS: tuple[Callable[[Draft], None], ...] = (
    secret_values.apply,
    workloads.apply,
    images.apply,
    commands.apply,
    environment.apply,
    probes.apply,
    volumes.apply,
    bind_mounts.apply,
    mounted_files.apply,
    devices.apply,
    resources.apply,
    security.apply,
    host_names.apply,
    traefik.apply,
    services.apply,
    networks.apply,
    dependencies.apply,
    placement.apply,
    labels.apply,
    leftovers.apply,
    namespace.apply,
)
