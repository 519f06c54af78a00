"""The namespace of the stack, with the Pod Security level that its pods need, and why. Accounts for `name`.

Levels: kubernetes.io/docs/concepts/security/pod-security-standards.
"""

from __future__ import annotations

from collections.abc import Iterator

from homelab_pipelines.migration.complete.security import SAFE_SYSCTLS
from homelab_pipelines.migration.draft import Draft, Object, Pod

LEVEL = "pod-security.kubernetes.io/"
REASON = "homelab-pipelines/pod-security-reason"
_BASELINE_CAPABILITIES = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}  # fmt: skip


def apply(draft: Draft) -> None:
    """Make the Namespace."""
    reasons = sorted({reason for pod in draft.distinct_pods() for reason in _privileged(pod)})
    level = "privileged" if reasons else "baseline"
    why = "; ".join(reasons) or "images of the stack choose their own user, which restricted does not allow"
    labels = {f"{LEVEL}enforce": level, f"{LEVEL}warn": level}
    metadata = {"name": draft.namespace, "labels": labels, "annotations": {REASON: why}}
    draft.objects.append({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    draft.ledger.carried(("name",), f"Namespace/{draft.namespace}, Pod Security level {level}: {why}")


def _privileged(pod: Pod) -> Iterator[str]:
    """What of a pod the level baseline does not allow."""
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(key):
            yield f"{pod.name} uses {key}"
    for volume in pod.spec.get("volumes", ()):
        if "hostPath" in volume:
            yield f"{pod.name} mounts {volume['hostPath']['path']} of the node"
    for sysctl in pod.spec.get("securityContext", {}).get("sysctls", ()):
        if sysctl["name"] not in SAFE_SYSCTLS:
            yield f"{pod.name} sets {sysctl['name']}"
    for container in pod.containers:
        yield from _container(pod, container.get("securityContext", {}))


def _container(pod: Pod, context: Object) -> Iterator[str]:
    if context.get("privileged"):
        yield f"{pod.name} is privileged"
    more = set(context.get("capabilities", {}).get("add", ())) - _BASELINE_CAPABILITIES
    if more:
        yield f"{pod.name} has {', '.join(sorted(more))}"
    for kind in ("seccompProfile", "appArmorProfile"):
        if context.get(kind, {}).get("type") == "Unconfined":
            yield f"{pod.name} runs unconfined"
    if context.get("seLinuxOptions", {}).get("type") == "spc_t":
        yield f"{pod.name} is without SELinux"
