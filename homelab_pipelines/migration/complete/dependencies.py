"""What starts before what. Accounts for `depends_on`.

Kompose drops it. Here a container waits in an init container until its peer's Service answers, or its Job is complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.draft import Draft, Object, Pod

ORDER = "homelab-pipelines/apply-order"
_JOBS = "job-waiter"
# What the Pod Security level restricted asks (kubernetes.io/docs/concepts/security/pod-security-standards).
_RESTRICTED: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 65534,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def apply(draft: Draft) -> None:
    """Add init waits, and number the pods so that each is applied after what it depends on."""
    for name, others, path in draft.having("depends_on"):
        for other, how in others.items():
            _depends(draft, name, other, how or {}, (*path, other))
    _number(draft)


def _depends(draft: Draft, name: str, other: str, how: Mapping[str, Any], path: Path) -> None:
    if other not in draft.pods:
        draft.ledger.dropped(path, "there is no such service among those that are converted")
        return
    waiting, awaited = draft.pods[name], draft.pods[other]
    condition = how.get("condition", "service_started")
    order = "the order in which the objects are applied"
    if waiting is awaited:
        draft.ledger.replaced(path, "both are in one pod, whose containers start together")
    elif condition == "service_completed_successfully":
        _add_init(waiting, _job_wait(draft, awaited.name))
        waiting.spec["serviceAccountName"] = _JOBS
        _job_rights(draft)
        draft.ledger.carried(path, draft.to(name, f"initContainers, which wait for Job/{awaited.name}"))
    elif condition == "service_healthy":
        port = next((port for port, protocol in draft.ports.get(other, ()) if protocol == "tcp"), None)
        if port is None:
            draft.ledger.replaced(path, f"{order}; {other} has no port to wait for")
        else:
            host = draft.containers[other]["name"]
            _add_init(waiting, _port_wait(draft, host, port))
            has_probe = "readinessProbe" in draft.containers[other]
            note = "ready" if has_probe else "there: its image's own health check is not read by Kubernetes"
            draft.ledger.carried(path, draft.to(name, f"initContainers, which wait until Service/{host} is {note}"))
    else:
        draft.ledger.replaced(path, order)
    for key, reason in (
        ("restart", "Kubernetes restarts no pod for another's sake: programs connect anew"),
        ("required", "every service of the stack is applied"),
    ):
        if key in how:
            draft.ledger.replaced((*path, key), reason) if key == "required" else draft.ledger.dropped(
                (*path, key), reason
            )


def _add_init(pod: Pod, container: Object) -> None:
    if all(each["name"] != container["name"] for each in pod.init):
        pod.init.append(container)


def _port_wait(draft: Draft, host: str, port: int) -> Object:
    script = f"until nc -z -w 2 {host} {port}; do sleep 2; done"
    return {
        "name": f"wait-for-{host}"[:63].rstrip("-"),
        "image": draft.policy.wait_image,
        "command": ["/bin/sh", "-c", script],
        "resources": {"requests": {"cpu": "5m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}},
        "securityContext": _RESTRICTED,
    }


def _job_wait(draft: Draft, job: str) -> Object:
    return {
        "name": f"wait-for-{job}"[:63].rstrip("-"),
        "image": draft.policy.job_wait_image,
        "command": ["kubectl", "wait", "--for=condition=complete", f"job/{job}", "--timeout=-1s"],
        "resources": {"requests": {"cpu": "5m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": _RESTRICTED,
    }


def _job_rights(draft: Draft) -> None:
    """A service account that may look at Jobs, and nothing else."""
    if any(each["kind"] == "ServiceAccount" for each in draft.objects):
        return
    group = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch"]}]
    draft.objects += [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": _JOBS}},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": _JOBS}, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": _JOBS},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": _JOBS},
            "subjects": [{"kind": "ServiceAccount", "name": _JOBS}],
        },
    ]


def _number(draft: Draft) -> None:
    """How many pods have to be applied before each, one after another. Pods in a circle stay where they are."""
    services = draft.stack.model["services"]
    pods = draft.distinct_pods()
    below = {
        pod.name: {draft.pods[other].name for name in pod.services for other in services[name].get("depends_on") or {}
                   if other in draft.pods and draft.pods[other] is not pod}
        for pod in pods
    }  # fmt: skip
    order = dict.fromkeys(below, 0)
    for _ in pods:
        order = {name: max((order[other] + 1 for other in others), default=0) for name, others in below.items()}
    for pod in pods:
        pod.order = min(order[pod.name], len(pods))
        pod.annotations[ORDER] = str(pod.order)
