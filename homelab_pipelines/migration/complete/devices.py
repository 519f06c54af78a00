"""Devices and GPUs. Accounts for `devices`, `gpus`, `runtime`, `device_cgroup_rules`, devices in `deploy.resources`.

Kompose drops them.
"""

from __future__ import annotations

from typing import Any

from homelab_pipelines.migration.complete.claims import mount
from homelab_pipelines.migration.draft import Draft
from homelab_pipelines.migration.names import label
from homelab_pipelines.migration.values import literal

_NVIDIA, _INTEL = "nvidia.com/gpu", "gpu.intel.com/i915"
_NODE_LABEL = "homelab-pipelines.device/"


def apply(draft: Draft) -> None:
    """GPUs through their device plugins; other devices from the node that has them, which is labelled so."""
    for name, devices, path in draft.having("devices"):
        for index, device in enumerate(devices):
            source, target = literal(device.get("source")), literal(device.get("target") or device.get("source"))
            if source.startswith("/dev/dri"):
                _gpu(draft, name, _INTEL, 1)
                to = f"resources.limits {_INTEL}"
                draft.ledger.replaced((*path, index), f"{draft.to_container(name, to)}, from the device plugin")
            elif not source.startswith("/dev/"):
                decision = (
                    "a device of CDI needs a device plugin, or a driver for dynamic allocation: name its resource"
                )
                draft.ledger.blocked((*path, index), decision)
            else:
                _node_device(draft, name, source, target, (*path, index))
    for name, gpus, path in draft.having("gpus"):
        counts = [gpu.get("count", 1) for gpu in gpus] if isinstance(gpus, list) else [1]
        _gpu(draft, name, _NVIDIA, sum(int(count) if int(count) > 0 else 1 for count in counts))
        draft.ledger.carried(path, draft.to_container(name, f"resources.limits {_NVIDIA}"))
    for name, deploy, path in draft.having("deploy"):
        reserved = ((deploy.get("resources") or {}).get("reservations") or {}).get("devices") or ()
        for index, device in enumerate(reserved):
            _reserved(draft, name, device, (*path, "resources", "reservations", "devices", index))
    for name, runtime, path in draft.having("runtime"):
        if runtime == "nvidia":
            draft.pods[name].spec["runtimeClassName"] = "nvidia"
            draft.require("the RuntimeClass nvidia (NVIDIA container toolkit on the node)")
            draft.ledger.carried(path, draft.to(name, "runtimeClassName"))
        else:
            draft.ledger.blocked(
                path, "this container runtime needs a RuntimeClass of the cluster: make one, or leave it out"
            )
    for _, _, path in draft.having("device_cgroup_rules"):
        draft.ledger.blocked(path, "Kubernetes has no device rules: name the devices in devices instead")


def _gpu(draft: Draft, name: str, resource: str, count: int) -> None:
    limits = draft.containers[name].setdefault("resources", {}).setdefault("limits", {})
    limits[resource] = str(max(count, int(limits.get(resource, 0))))
    draft.require(f"the device plugin that offers {resource} on a node")


def _node_device(draft: Draft, name: str, source: str, target: str, path: Any) -> None:
    key = label(source.removeprefix("/dev/"))
    mount(draft, name, {"name": label(f"device-{key}"), "hostPath": {"path": source, "type": "CharDevice"}}, target)
    draft.container_security(name)["privileged"] = True
    draft.pods[name].spec.setdefault("nodeSelector", {})[f"{_NODE_LABEL}{key}"] = "true"
    draft.require(f"the node with {source} labelled: kubectl label node NODE {_NODE_LABEL}{key}=true")
    draft.ledger.carried(path, draft.to_container(name, "volumeMounts, from the labelled node, with privileged"))


def _reserved(draft: Draft, name: str, device: dict[str, Any], path: Any) -> None:
    capabilities = device.get("capabilities") or []
    if device.get("driver", "nvidia") == "nvidia" and "gpu" in capabilities:
        count = device.get("count", len(device.get("device_ids") or ()) or 1)
        _gpu(draft, name, _NVIDIA, int(count) if int(count) > 0 else 1)
        draft.ledger.carried(path, draft.to_container(name, f"resources.limits {_NVIDIA}"))
        if "device_ids" in device:
            draft.ledger.replaced((*path, "device_ids"), "the device plugin chooses which")
    else:
        draft.ledger.blocked(path, "this device needs a device plugin of the cluster: name its resource by hand")
