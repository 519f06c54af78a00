"""What of an object the Kubernetes API would refuse, as far as its published model says: unknown fields, missing ones,
wrong types, names and labels that are not valid. A peer for tests where there is no API server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kubernetes import client

LABEL = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SERVICE = re.compile("[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?")
VALUE = re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?")
_PRIMITIVE = {"str": str, "bool": bool, "int": int, "float": (int, float)}


def faults(obj: dict[str, Any]) -> list[str]:
    """Everything that is wrong with one object; kinds that are not Kubernetes' own are judged by their metadata."""
    kind, metadata = obj["kind"], obj["metadata"]
    found = list(_metadata(kind, metadata))
    if kind in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
        found += _metadata("template", obj["spec"]["template"]["metadata"])
        found += _pod(obj["spec"]["template"]["spec"])
    if kind == "Service":
        ports = [each.get("name") for each in obj["spec"].get("ports", ())]
        found += ["two ports of one name"] if len(ports) != len(set(ports)) else []
    model = getattr(client, f"V1{kind}", None)
    if model is not None and "traefik" not in obj["apiVersion"]:
        found += _walk(obj, f"V1{kind}", kind)
    return [f"{kind}/{metadata['name']}: {fault}" for fault in found]


def _metadata(kind: str, metadata: dict[str, Any]) -> Iterator[str]:
    name = metadata.get("name")
    if name is not None and not (SERVICE if kind == "Service" else LABEL).fullmatch(name):
        yield f"name {name!r}"
    for key, value in metadata.get("labels", {}).items():
        if not KEY.fullmatch(key) or not VALUE.fullmatch(value):
            yield f"label {key}={value!r}"
    for key, value in metadata.get("annotations", {}).items():
        if not KEY.fullmatch(key) or not isinstance(value, str):
            yield f"annotation {key}"


def _pod(spec: dict[str, Any]) -> Iterator[str]:
    """Rules between fields that the API server checks and the model does not tell."""
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        yield "shares its processes and the node's"
    volumes = [volume["name"] for volume in spec.get("volumes", ())]
    if len(volumes) != len(set(volumes)):
        yield "two volumes of one name"
    for name in volumes:
        if not LABEL.fullmatch(name):
            yield f"volume name {name!r}"
    names = [each["name"] for each in (*spec["containers"], *spec.get("initContainers", ()))]
    if len(names) != len(set(names)):
        yield "two containers of one name"
    for container in spec["containers"]:
        yield from _container(container, set(volumes))


def _container(container: dict[str, Any], volumes: set[str]) -> Iterator[str]:
    if not LABEL.fullmatch(container["name"]):
        yield f"container name {container['name']!r}"
    mounts = container.get("volumeMounts", ())
    paths = [each["mountPath"] for each in mounts]
    if len(paths) != len(set(paths)):
        yield f"{container['name']} mounts twice at one path: {sorted(paths)}"
    for each in mounts:
        if each["name"] not in volumes:
            yield f"{container['name']} mounts {each['name']}, which is no volume of the pod"
        if ":" in each["mountPath"] or each.get("subPath", "").startswith("/") or ".." in each.get("subPath", ""):
            yield f"{container['name']} mounts at {each['mountPath']}"
    if not container.get("image") or container["image"] != container["image"].strip():
        yield f"{container['name']} has no image"
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is False and (
        security.get("privileged") or "SYS_ADMIN" in security.get("capabilities", {}).get("add", ())
    ):
        yield f"{container['name']} is privileged and may not escalate"
    for unit, limit in container.get("resources", {}).get("limits", {}).items():
        asked = container["resources"].get("requests", {}).get(unit)
        if asked is not None and _number(asked) > _number(limit):
            yield f"{container['name']} asks for more {unit} than its limit"


def _number(quantity: str) -> float:
    match = re.fullmatch(r"([0-9.]+)(m|Ki|Mi|Gi)?", quantity)
    assert match, quantity
    return float(match[1]) * {"m": 1e-3, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}.get(match[2] or "", 1)


def _walk(value: Any, kind: str, path: str) -> Iterator[str]:
    if value is None:
        yield f"{path} is null"
        return
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(value, list):
            yield f"{path} is no list"
            return
        for index, each in enumerate(value):
            yield from _walk(each, match[1], f"{path}[{index}]")
    elif match := re.fullmatch(r"dict[(\[]str, (.*)[)\]]", kind):
        for key, each in value.items():
            yield from _walk(each, match[1], f"{path}.{key}")
    elif kind in _PRIMITIVE:
        wanted = _PRIMITIVE[kind]
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "bool"):
            yield f"{path} is {type(value).__name__}, not {kind}"
    elif kind not in ("object", "datetime"):
        yield from _fields(value, kind, path)


def _fields(value: Any, kind: str, path: str) -> Iterator[str]:
    model = getattr(client, kind)
    names = {json: python for python, json in model.attribute_map.items()}
    if not isinstance(value, dict):
        yield f"{path} is no mapping"
        return
    for key, each in value.items():
        if key not in names:
            yield f"{path} has no field {key}"
        else:
            yield from _walk(each, model.openapi_types[names[key]], f"{path}.{key}")
    try:
        model(**{names[key]: each for key, each in value.items() if key in names})
    except ValueError as error:
        yield f"{path}: {error}"
