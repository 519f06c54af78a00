"""Claims for data: one for each volume or folder, its size, class and access mode from the policy."""

from __future__ import annotations

from homelab_pipelines.migration.draft import VOLUME_LABEL, Copy, Draft, Object
from homelab_pipelines.migration.known_images import is_database


def add_claim(draft: Draft, name: str, users: list[str], source: str) -> None:
    """Make a PersistentVolumeClaim for services `users`, to be filled from `source` before the stack starts.

    Pods that share a claim are kept on one node (ReadWriteOnce is per node), unless the policy has a shared class.
    """
    pods = list({id(draft.pods[user]): draft.pods[user] for user in users}.values())
    services = draft.stack.model["services"]
    database = any(is_database(str(services[user].get("image", ""))) for user in users)
    several = len(pods) > 1 or any((pod.replicas or 1) > 1 or pod.kind == "DaemonSet" for pod in pods)
    shared = several and draft.policy.shared_class is not None and not database
    chosen = draft.policy.shared_class if shared else None
    chosen = chosen or (draft.policy.database_class if database else draft.policy.storage_class)
    spec: Object = {
        "accessModes": ["ReadWriteMany" if shared else "ReadWriteOnce"],
        "resources": {"requests": {"storage": draft.policy.claim_size}},
    }
    if chosen:
        spec["storageClassName"] = chosen
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
    draft.objects.append(claim)
    draft.copies.append(Copy(source, name, tuple(users)))
    if several and not shared:
        key = f"{VOLUME_LABEL}{name}"
        for pod in pods:
            pod.labels[key] = "true"
            affinity = pod.spec.setdefault("affinity", {}).setdefault("podAffinity", {})
            term = {"labelSelector": {"matchLabels": {key: "true"}}, "topologyKey": "kubernetes.io/hostname"}
            affinity.setdefault("requiredDuringSchedulingIgnoredDuringExecution", []).append(term)


def mount(draft: Draft, service: str, volume: Object, target: str, **options: object) -> None:
    """Add a volume to the pod of a service, and mount it in the service's container."""
    draft.pods[service].add_volume(volume)
    made = {"name": volume["name"], "mountPath": target, **{key: value for key, value in options.items() if value}}
    mounts = draft.containers[service].setdefault("volumeMounts", [])
    if made not in mounts:
        mounts.append(made)


def claim_volume(name: str) -> Object:
    """A pod's volume that is a claim."""
    return {"name": name, "persistentVolumeClaim": {"claimName": name}}
