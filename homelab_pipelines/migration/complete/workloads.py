"""Which workload a service becomes: Deployment, StatefulSet, DaemonSet or Job, and which services share a pod.

Accounts for `restart`, `scale`, `network_mode`, `container_name`, `profiles`, and of `deploy`: `mode`, `replicas`,
`restart_policy`, `update_config`, `rollback_config`, `endpoint_mode`. Kompose makes bare pods for `restart: no`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.draft import Draft, Pod
from homelab_pipelines.migration.known_images import is_database, known_port
from homelab_pipelines.migration.peers import Peers, names_of


def apply(draft: Draft) -> None:
    """Give every service a container, in a pod of its own or in that whose network it joins."""
    joined = {name: _joined(draft, name, service) for name, service, _ in draft.services()}
    awaited = _awaited(draft)
    for name, service, path in draft.services():
        root = _root(name, joined)
        if root not in draft.pods:
            draft.pods[root] = Pod(draft.names.name(root), [])
        pod = draft.pods[name] = draft.pods[root]
        pod.services.append(name)
        pod.labels[draft.service_key(name)] = "true"
        container = draft.containers[name] = {"name": draft.names.name(name)}
        pod.containers.insert(0 if name == root else len(pod.containers), container)
        if name == root:
            _kind(draft, pod, service, path, name in awaited)
    for name, service, path in draft.services():
        _restart(draft, name, service, path)
        _network_mode(draft, name, service, path, joined[name])
        _small_keys(draft, name, service, path)


def _joined(draft: Draft, name: str, service: Mapping[str, Any]) -> str | None:
    """The service whose network this one shares."""
    kind, _, other = str(service.get("network_mode", "")).partition(":")
    services = draft.stack.model["services"]
    if kind == "service" and other in services and other != name:
        return other
    if kind == "container":
        return next((each for each, its in services.items() if other in (each, its.get("container_name"))), None)
    return None


def _root(name: str, joined: Mapping[str, str | None]) -> str:
    seen: set[str] = set()
    while (other := joined[name]) is not None and name not in seen:
        seen.add(name)
        name = other
    return name


def _awaited(draft: Draft) -> set[str]:
    """Services that another one waits for to complete."""
    return {
        other
        for _, others, _ in draft.having("depends_on")
        for other, how in others.items()
        if how.get("condition") == "service_completed_successfully"
    }


def _kind(draft: Draft, pod: Pod, service: Mapping[str, Any], path: Path, awaited: bool) -> None:
    deploy = service.get("deploy") or {}
    restart, retries = _policy(service)
    serves = _serves(draft, pod.services[0], service)
    if awaited or (restart in ("no", "on-failure") and _said(service) and not serves):
        pod.kind, pod.replicas = "Job", None
        pod.job = {"backoffLimit": retries if restart == "on-failure" else 0}
        pod.spec["restartPolicy"] = "OnFailure" if restart == "on-failure" else "Never"
        return
    if deploy.get("mode") == "global":
        pod.kind, pod.replicas = "DaemonSet", None
        return
    replicas = deploy.get("replicas", service.get("scale", 1))
    pod.replicas = int(replicas)
    persistent = any(volume.get("type") in ("volume", "bind") for volume in service.get("volumes") or ())
    if is_database(str(service.get("image", ""))) and persistent:
        pod.kind = "StatefulSet"


def _serves(draft: Draft, name: str, service: Mapping[str, Any]) -> bool:
    """Whether a service is there to be dialled, and so never done: by its own keys, its image, or its peers."""
    if any(service.get(key) for key in ("ports", "expose", "healthcheck")) or known_port(str(service.get("image", ""))):
        return True
    labels = {**(service.get("labels") or {}), **((service.get("deploy") or {}).get("labels") or {})}
    if any(key.lower().startswith("traefik.") for key in labels):
        return True
    return "replicas" in (service.get("deploy") or {}) or any(map(Peers(draft).dialled, names_of(name, service)))


def _said(service: Mapping[str, Any]) -> bool:
    """Whether the file says how to restart; without a word Compose does not, also for what is meant to stay."""
    return "restart" in service or "restart_policy" in (service.get("deploy") or {})


def _policy(service: Mapping[str, Any]) -> tuple[str, int]:
    """How Compose restarts the service, and how often; six times is Kubernetes' own number for Jobs."""
    policy = (service.get("deploy") or {}).get("restart_policy")
    if policy:
        conditions = {"none": "no", "on-failure": "on-failure", "any": "always"}
        return conditions.get(str(policy.get("condition", "any")), "always"), int(policy.get("max_attempts") or 6)
    kind, _, count = str(service.get("restart", "no")).partition(":")
    return kind, int(count) if count.isdecimal() else 6


def _restart(draft: Draft, name: str, service: Mapping[str, Any], path: Path) -> None:
    pod = draft.pods[name]
    restart, _ = _policy(service)
    for key in (("restart",), ("deploy", "restart_policy")):
        where = (*path, *key)
        if key == ("restart",) and key[0] in service and "restart_policy" in (service.get("deploy") or {}):
            draft.ledger.dropped(where, "deploy.restart_policy counts before it")
        elif pod.kind == "Job":
            draft.ledger.carried(where, draft.to(name, "restartPolicy and backoffLimit"))
            for part in ("delay", "window"):
                draft.ledger.dropped((*where, part), "Kubernetes waits longer from try to try, from ten seconds on")
        elif restart in ("always", "unless-stopped"):
            draft.ledger.carried(where, f"{pod.kind}/{pod.name}, whose pods are always restarted")
        else:
            reason = "it is a server, by its ports, labels, image or peers, and a controller always restarts it"
            draft.ledger.replaced(where, f"{pod.kind}/{pod.name}: {reason}")


def _network_mode(draft: Draft, name: str, service: Mapping[str, Any], path: Path, joined: str | None) -> None:
    where, mode = (*path, "network_mode"), str(service.get("network_mode", ""))
    pod = draft.pods[name]
    if joined:
        draft.ledger.carried(where, f"a container in the pod of {joined}: {pod.kind}/{pod.name}")
    elif mode == "host":
        pod.spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
        draft.ledger.carried(where, draft.to(name, "hostNetwork, dnsPolicy"))
    elif mode == "none":
        draft.ledger.replaced(where, "the NetworkPolicy default-deny alone")
    elif mode.startswith(("container:", "service:")):
        decision = "it shares the network of a container outside this stack: say which stack, and convert them as one"
        draft.ledger.blocked(where, decision)
    else:
        draft.ledger.replaced(where, "the cluster's pod network")


def _small_keys(draft: Draft, name: str, service: Mapping[str, Any], path: Path) -> None:
    pod, deploy = draft.pods[name], (*path, "deploy")
    to = draft.to(name, "replicas" if pod.replicas is not None else "kind")
    draft.ledger.carried((*deploy, "mode"), to)
    for key in ((*path, "scale"), (*deploy, "replicas")):
        if pod.kind == "Job":
            draft.ledger.replaced(key, f"Job/{pod.name}, which runs once")
        else:
            draft.ledger.carried(key, to)
    for part in ("update_config", "rollback_config"):
        draft.ledger.replaced((*deploy, part), f"the way in which {pod.kind}s are rolled out, one pod after another")
    draft.ledger.replaced((*deploy, "endpoint_mode"), "the ClusterIP of a Service")
    draft.ledger.carried((*path, "profiles"), "all profiles are converted; leave out what you do not use in an overlay")
