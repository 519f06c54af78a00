"""Named and anonymous volumes, and memory.

Accounts for `volumes` of those types, top-level `volumes`, `tmpfs`, `shm_size`.
Kompose makes claims of 100Mi, forgets `external`, `name`, `driver` and `driver_opts`, and misnames those with capitals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.complete.claims import add_claim, claim_volume, mount
from homelab_pipelines.migration.draft import Draft, Object
from homelab_pipelines.migration.names import label
from homelab_pipelines.migration.values import literal, quantity, size_in_bytes


def apply(draft: Draft) -> None:
    """Make a claim for each volume that a service uses, and mount it."""
    used = _users(draft)
    volumes = draft.stack.model.get("volumes") or {}
    made = {key: _volume(draft, key, volumes[key] or {}, used.get(key, [])) for key in volumes}
    for name, mounts, path in draft.having("volumes"):
        for index, each in enumerate(mounts):
            _mount(draft, name, each, (*path, index), made)
    for name, entries, path in draft.having("tmpfs"):
        for index, entry in enumerate([entries] if isinstance(entries, str) else entries):
            _tmpfs(draft, name, literal(entry), (*path, index) if isinstance(entries, list) else path)
    for name, size, path in draft.having("shm_size"):
        mount(draft, name, _memory("dev-shm", size_in_bytes(size)), "/dev/shm")  # noqa: S108 (Linux's own path)
        draft.ledger.carried(path, draft.to(name, "volumes[dev-shm], in memory, with this sizeLimit"))


def _users(draft: Draft) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, mounts, _ in draft.having("volumes"):
        for each in mounts:
            if each.get("type") == "volume" and each.get("source"):
                users = found.setdefault(each["source"], [])
                users += [] if name in users else [name]
    return found


def _volume(draft: Draft, key: str, volume: Mapping[str, Any], users: list[str]) -> Object | None:
    """The pod's volume for one of the model's `volumes`; None where it cannot be made."""
    path: Path = ("volumes", key)
    options = {name: literal(value) for name, value in (volume.get("driver_opts") or {}).items()}
    if not users:
        draft.ledger.dropped(path, "no service uses it")
        return None
    name = draft.names.name(key)
    docker_name = literal(volume.get("name")) or key
    kind = options.get("type", "")
    if kind.startswith("nfs"):
        return _nfs(draft, name, options, path)
    if kind == "tmpfs":
        draft.ledger.carried(path, f"an emptyDir in memory, {name}")
        return _memory(name, 0)
    if kind in ("cifs", "smb3"):
        decision = "an SMB share needs the SMB CSI driver and a Secret with its user: make a claim by hand, or use NFS"
        draft.ledger.blocked(path, decision)
        return claim_volume(name)
    bind = kind == "none" and "bind" in options.get("o", "")
    if options and not bind:
        draft.ledger.blocked(
            (*path, "driver_opts"), "these options of the volume driver have no counterpart: choose a class"
        )
    if volume.get("driver") not in (None, "local"):
        draft.ledger.blocked((*path, "driver"), "this volume driver is Docker's: choose a storage class for the claim")
    add_claim(draft, name, users, options["device"] if bind and "device" in options else f"volume:{docker_name}")
    to = f"PersistentVolumeClaim/{name}"
    draft.ledger.carried(path, to)
    draft.ledger.replaced((*path, "name"), f"{to}; the data of the Docker volume is to be copied into it")
    draft.ledger.replaced((*path, "external"), f"{to}: the stack has a claim of its own, with a copy of the data")
    if volume.get("driver") in (None, "local"):
        draft.ledger.replaced((*path, "driver"), "the storage class of the claim")
    if bind:
        draft.ledger.replaced((*path, "driver_opts"), f"{to}; the data of the folder is to be copied into it")
    draft.ledger.dropped((*path, "labels"), "a label of a Docker volume, which nothing reads on Kubernetes")
    return claim_volume(name)


def _nfs(draft: Draft, name: str, options: Mapping[str, str], path: Path) -> Object | None:
    settings = dict(part.partition("=")[::2] for part in options.get("o", "").split(","))
    server, folder = settings.get("addr", ""), options.get("device", "").lstrip(":")
    if not server or not folder:
        draft.ledger.blocked((*path, "driver_opts"), "an NFS volume needs o: addr=… and device: :/path")
        return claim_volume(name)
    draft.ledger.carried(path, f"the pod's volume {name}, of kind nfs")
    extra = sorted(set(settings) - {"addr", "rw", "ro", "nfsvers", "vers", ""})
    if extra:
        draft.require(
            f"mount options of the NFS volume {name} ({', '.join(extra)}) are those of the node: set them there"
        )
    return {"name": name, "nfs": {"server": server, "path": folder, **({"readOnly": True} if "ro" in settings else {})}}


def _mount(draft: Draft, name: str, each: Mapping[str, Any], path: Path, made: Mapping[str, Object | None]) -> None:
    kind, target = each.get("type"), literal(each.get("target"))
    if kind == "tmpfs":
        options = each.get("tmpfs") or {}
        volume = _memory(label(f"tmp{target}", 50), size_in_bytes(options.get("size", 0)))
        mount(draft, name, volume, target)
        draft.ledger.carried(path, draft.to_container(name, "volumeMounts, an emptyDir in memory"))
        draft.ledger.dropped((*path, "tmpfs", "mode"), "an emptyDir is writable for all")
    elif kind == "volume":
        source = each.get("source")
        volume_made = made.get(source) if source else None
        if source and volume_made is None:
            draft.ledger.blocked(path, "this volume is not among the volumes of the project: declare it")
            return
        if volume_made is None:
            claim = draft.names.name(f"{name}-{label(target, 30)}")
            add_claim(draft, claim, [name], f"the anonymous volume of {name} at {target}")
            volume_made = claim_volume(claim)
        options = each.get("volume") or {}
        mount(
            draft, name, volume_made, target, readOnly=bool(each.get("read_only")),
            subPath=literal(options.get("subpath")).strip("/"),
        )  # fmt: skip
        draft.ledger.carried(path, draft.to_container(name, "volumeMounts"))
        account_consistency(draft, each, path)
        for key in set(options) - {"nocopy", "subpath"}:
            draft.ledger.dropped(
                (*path, "volume", key), "a property of a Docker volume, which nothing reads on Kubernetes"
            )
        if "nocopy" in options:
            draft.ledger.replaced((*path, "volume", "nocopy"), "Kubernetes never copies an image's files into a volume")
    elif kind != "bind":
        draft.ledger.blocked(path, "a mount of this type has no counterpart: use a volume, a bind mount or tmpfs")


def account_consistency(draft: Draft, each: Mapping[str, Any], path: Path) -> None:
    """`consistency` is for Docker Desktop on macOS, whatever is mounted."""
    if "consistency" in each:
        draft.ledger.dropped((*path, "consistency"), "it is for Docker Desktop")


def _tmpfs(draft: Draft, name: str, entry: str, path: Path) -> None:
    target, _, options = entry.partition(":")
    settings = dict(part.partition("=")[::2] for part in options.split(",") if part)
    mount(draft, name, _memory(label(f"tmp{target}", 50), size_in_bytes(settings.get("size", 0))), target)
    note = draft.to_container(name, "volumeMounts, an emptyDir in memory")
    others = sorted(set(settings) - {"size", "rw"})
    draft.ledger.carried(path, f"{note}; without {', '.join(others)}, which emptyDir has not" if others else note)


def _memory(name: str, size: int) -> Object:
    return {"name": name, "emptyDir": {"medium": "Memory", **({"sizeLimit": quantity(size)} if size else {})}}
