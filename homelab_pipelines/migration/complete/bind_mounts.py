"""Bind mounts, decided path by path. Accounts for `volumes` of type bind.

Kompose makes a ConfigMap of what lies at the path on the machine where it runs, or an empty claim, in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as FilePath
from pathlib import PurePosixPath
from typing import Any

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.complete.claims import add_claim, claim_volume, mount
from homelab_pipelines.migration.complete.mounted_files import mount_file, mount_files, small_text_files
from homelab_pipelines.migration.complete.volumes import account_consistency
from homelab_pipelines.migration.draft import Draft, Object
from homelab_pipelines.migration.host_paths import is_file, is_folder
from homelab_pipelines.migration.names import label
from homelab_pipelines.migration.values import literal

_CLOCK = {"/etc/localtime", "/etc/timezone"}
_DOCKER = ("/var/lib/docker", "/run/docker", "/var/run/docker", "/etc/docker")
# What belongs to the host itself: mounted from the node, as monitoring agents want it.
_HOST = (
    "/",
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/var/run",
    "/var/log",
    "/etc",
    "/usr",
    "/lib/modules",
    "/boot",
    "/bin",
    "/lib",
)
_BELOW_HOST = (
    "/proc/",
    "/sys/",
    "/dev/",
    "/run/",
    "/var/run/",
    "/var/log/",
    "/lib/modules/",
    "/etc/",
    "/usr/",
    "/boot/",
)


def apply(draft: Draft) -> None:
    """Decide for each bind mount what stands in its place."""
    data: list[tuple[str, Mapping[str, Any], Path]] = []
    for name, mounts, path in draft.having("volumes"):
        for index, each in enumerate(mounts):
            if each.get("type") == "bind":
                account_consistency(draft, each, (*path, index))
            if each.get("type") == "bind" and not _decided(draft, name, each, (*path, index)):
                data.append((name, each, (*path, index)))
    _claims(draft, data)


def _decided(draft: Draft, name: str, each: Mapping[str, Any], path: Path) -> bool:
    """Whether the mount is no data to be copied, and was dealt with."""
    source, target = literal(each["source"]), literal(each.get("target"))
    if source in _CLOCK or target in _CLOCK:
        _clock(draft, name, path)
    elif source.endswith(".sock") or source.startswith(_DOCKER):
        decision = (
            "it speaks to Docker on its host, and the nodes have none: use what the program offers for Kubernetes"
        )
        other = "a socket of the host has no counterpart on a node: reach the program over the network"
        draft.ledger.blocked(path, decision if "docker" in source else other)
    elif source in _HOST or source.startswith(_BELOW_HOST):
        _host(draft, name, each, path)
    elif is_file(source):
        mount_file(draft, name, each, path)
    elif is_folder(source):
        files = small_text_files(FilePath(source)) if each.get("read_only") else None
        if not files:
            return False
        mount_files(draft, name, each, files, path)
    elif _looks_like_file(source, target):
        decision = "this file is not here, so it cannot be put into a ConfigMap: put it there, and convert again"
        draft.ledger.blocked(path, decision)
    else:
        return False
    return True


def _clock(draft: Draft, name: str, path: Path) -> None:
    """The time zone as TZ; what the container sets itself stays."""
    container = draft.containers[name]
    known = draft.stack.model["services"][name].get("environment") or {}
    if "TZ" in known:
        draft.ledger.replaced(path, "TZ, which the service has")
        return
    zone = draft.policy.time_zone
    if not any(variable["name"] == "TZ" for variable in container.get("env", ())):
        container.setdefault("env", []).append({"name": "TZ", "value": zone})
    draft.ledger.replaced(path, f"TZ={zone} in {draft.to_container(name, 'env')}, the homelab's time zone")


def _host(draft: Draft, name: str, each: Mapping[str, Any], path: Path) -> None:
    source = literal(each["source"])
    volume: Object = {"name": label(f"host-{source.strip('/') or 'root'}", 60), "hostPath": {"path": source}}
    propagation = (each.get("bind") or {}).get("propagation", "")
    way = {
        "rslave": "HostToContainer",
        "slave": "HostToContainer",
        "rshared": "Bidirectional",
        "shared": "Bidirectional",
    }
    mount(
        draft, name, volume, literal(each.get("target")), readOnly=bool(each.get("read_only")),
        mountPropagation=way.get(propagation, ""),
    )  # fmt: skip
    draft.ledger.carried(path, draft.to_container(name, "volumeMounts, a hostPath of the node"))
    _selinux(draft, each, path)


def _selinux(draft: Draft, each: Mapping[str, Any], path: Path) -> None:
    for key in each.get("bind") or {}:
        if key == "selinux":
            draft.ledger.dropped((*path, "bind", key), "Kubernetes labels volumes itself")
        elif key == "create_host_path":
            draft.ledger.replaced((*path, "bind", key), "what stands in the place of the path is made with the stack")
        elif key != "propagation":
            draft.ledger.dropped((*path, "bind", key), "it has no counterpart")


def _looks_like_file(source: str, target: str) -> bool:
    """Whether a path that is not there is meant to be a file: both ends have the same kind of suffix."""
    suffixes = PurePosixPath(source).suffix, PurePosixPath(target).suffix
    return bool(suffixes[0] and suffixes[1]) and not suffixes[0][1:].isdecimal() and not source.endswith((".d", "/"))


def _claims(draft: Draft, data: list[tuple[str, Mapping[str, Any], Path]]) -> None:
    """One claim for each folder, mounted at a subPath where a service mounts a folder in it."""
    sources = sorted({_clean(each) for _, each, _ in data})
    roots = {source: next(root for root in sources if _inside(source, root)) for source in sources}
    folder = draft.stack.folder
    for root in sorted(set(roots.values())):
        users = list(dict.fromkeys(name for name, each, _ in data if roots[_clean(each)] == root))
        relative = PurePosixPath(root).relative_to(folder) if PurePosixPath(root).is_relative_to(folder) else None
        shown = f"{draft.stack.name}-files" if relative == PurePosixPath() else str(relative or root).strip("/")
        claim = draft.names.name(f"data/{shown}")
        source = f"./{relative}" if relative is not None else root
        add_claim(draft, claim, users, source)
        for name, each, path in data:
            if roots[_clean(each)] != root:
                continue
            below = str(PurePosixPath(_clean(each)).relative_to(root))
            mount(
                draft, name, claim_volume(claim), literal(each.get("target")), readOnly=bool(each.get("read_only")),
                subPath="" if below == "." else below,
            )  # fmt: skip
            seen = "" if is_folder(_clean(each)) else " (the folder is not on this machine)"
            draft.ledger.carried(path, f"PersistentVolumeClaim/{claim}; its data is to be copied{seen}")
            _selinux(draft, each, path)


def _clean(each: Mapping[str, Any]) -> str:
    return str(PurePosixPath(literal(each["source"])))


def _inside(source: str, root: str) -> bool:
    return PurePosixPath(source).is_relative_to(root)
