"""What of Kompose's objects ours lack, where Kompose's are right: a comparison by meaning, not by text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from homelab_pipelines.migration.convert import Conversion
from homelab_pipelines.migration.names import label

_WORKLOADS = ("Deployment", "DaemonSet", "Pod", "StatefulSet", "Job")


def lacking(conversion: Conversion) -> list[str]:
    """Each thing that a container or Service of Kompose has and ours has not, but for what a person must decide."""
    services = conversion.stack.model["services"]
    called = {label(str(its.get("container_name") or name)): label(name) for name, its in services.items()}
    ours = dict(_containers(list(conversion.objects)))
    found = []
    for name, theirs in _containers(conversion.kompose.objects()):
        name = name if name in ours else called.get(name, name)
        if name not in ours:
            found.append(f"{name}: no container")
            continue
        service = next(each for each in services if label(each) == name)
        found += [f"{name}: {each}" for each in _container(conversion, service, theirs, ours[name])]
    for each in conversion.kompose.objects():
        if each["kind"] == "Service" and each["spec"].get("clusterIP") != "None":
            found += _service(conversion, each)
    return found


def _service(conversion: Conversion, theirs: dict[str, Any]) -> Iterator[str]:
    name = theirs["metadata"]["name"]
    mine = {
        port["targetPort"]
        for each in conversion.objects
        if each["kind"] == "Service"
        and each["metadata"]["name"] == label(name)  # Kompose leaves some names as they are, which no server takes
        for port in each["spec"].get("ports", ())
    }
    for port in theirs["spec"]["ports"]:
        if port["targetPort"] not in mine:
            yield f"{name}: no Service port {port['targetPort']}"


def _decided(conversion: Conversion, service: str, target: str) -> bool:
    """Whether a mount is left to a person, or something else than a mount stands in its place."""
    for index, volume in enumerate(conversion.stack.model["services"][service].get("volumes") or ()):
        if volume["target"] == target:
            entry = conversion.ledger.fate(("services", service, "volumes", index, "target"))
            return entry is not None and entry.fate in ("blocked", "replaced")
    return target == "/run/secrets"  # a folder with the file of one secret; ours is the file


def _containers(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for each in objects:
        if each["kind"] in _WORKLOADS:
            spec = each["spec"] if each["kind"] == "Pod" else each["spec"]["template"]["spec"]
            for container in spec["containers"]:
                yield container["name"], container


def _container(conversion: Conversion, service: str, theirs: dict[str, Any], mine: dict[str, Any]) -> Iterator[str]:
    for field in ("image", "workingDir", "tty", "stdin"):
        built = field == "image" and "build" in conversion.stack.model["services"][service]
        if field in theirs and theirs[field] != mine.get(field) and not built:
            yield f"{field} differs"
    variables = {each["name"] for each in mine.get("env", ())} | {
        key
        for source in mine.get("envFrom", ())
        for kind, reference in source.items()
        for key in _keys(conversion, kind, reference["name"])
    }
    yield from (f"variable {each['name']}" for each in theirs.get("env", ()) if each["name"] not in variables)
    paths = {each["mountPath"] for each in mine.get("volumeMounts", ())}
    for each in theirs.get("volumeMounts", ()):
        if each["mountPath"] not in paths and not _decided(conversion, service, each["mountPath"]):
            yield f"mount {each['mountPath']}"
    theirs_security, security = theirs.get("securityContext", {}), mine.get("securityContext", {})
    for field in ("privileged", "runAsUser", "runAsGroup", "readOnlyRootFilesystem"):
        if theirs_security.get(field) not in (None, False) and theirs_security[field] != security.get(field):
            yield field
    for field, values in theirs_security.get("capabilities", {}).items():
        yield from (f"{field} {each}" for each in values if each not in security.get("capabilities", {}).get(field, ()))
    limits = mine.get("resources", {}).get("limits", {})
    yield from (f"limit {unit}" for unit in theirs.get("resources", {}).get("limits", {}) if unit not in limits)


def _keys(conversion: Conversion, kind: str, name: str) -> set[str]:
    if kind == "secretRef":
        return set(conversion.secrets[name])
    return {
        key
        for each in conversion.objects
        if each["kind"] == "ConfigMap" and each["metadata"]["name"] == name
        for key in each["data"]
    }
