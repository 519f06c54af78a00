"""Short ways to what a test asks of a conversion."""

from __future__ import annotations

from typing import Any

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.convert import Conversion


def found(conversion: Conversion, kind: str, name: str) -> dict[str, Any]:
    """The object of this kind and name."""
    named = [each for each in conversion.objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    assert len(named) == 1, [f"{each['kind']}/{each['metadata']['name']}" for each in conversion.objects]
    return named[0]


def names(conversion: Conversion, kind: str) -> set[str]:
    """The names of all objects of a kind."""
    return {each["metadata"]["name"] for each in conversion.objects if each["kind"] == kind}


def pod(conversion: Conversion, name: str) -> dict[str, Any]:
    """The pod's spec of the workload of this name."""
    kinds = ("Deployment", "StatefulSet", "DaemonSet", "Job")
    workload = [each for each in conversion.objects if each["kind"] in kinds and each["metadata"]["name"] == name]
    assert len(workload) == 1
    spec: dict[str, Any] = workload[0]["spec"]["template"]["spec"]
    return spec


def container(conversion: Conversion, name: str) -> dict[str, Any]:
    """The container of a service, in whichever pod it is."""
    kinds = ("Deployment", "StatefulSet", "DaemonSet", "Job")
    every = [
        each
        for workload in conversion.objects
        if workload["kind"] in kinds
        for each in workload["spec"]["template"]["spec"]["containers"]
        if each["name"] == name
    ]
    assert len(every) == 1
    made: dict[str, Any] = every[0]
    return made


def fate(conversion: Conversion, *path: str | int) -> str:
    """In which class a path ended."""
    where: Path = path
    entry = conversion.ledger.fate(where)
    return entry.fate if entry else "unaccounted"
