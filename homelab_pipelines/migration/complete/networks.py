"""Networks as NetworkPolicies: nothing is allowed but what Compose allowed.

Accounts for `networks`, of services and top-level.
Kompose makes none, or policies that cut off the ingress controller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.draft import Draft, Object

_DNS_NAMESPACE = {"kubernetes.io/metadata.name": "kube-system"}


def apply(draft: Draft) -> None:
    """Default deny, DNS, one policy for each network, and one for what is published or routed."""
    draft.objects += [_policy("default-deny", {}, {"policyTypes": ["Ingress", "Egress"]}), _dns()]
    networks = draft.stack.model.get("networks") or {}
    used = {network for name, _, _ in draft.services() for network in draft.networks_of(name)}
    for network, settings in networks.items():
        _network(draft, network, settings or {}, network in used)
    _bridge(draft)
    for name, service, path in draft.services():
        _membership(draft, name, service, path)
        _from_outside(draft, name)


def _policy(name: str, selector: Mapping[str, str], spec: Object) -> Object:
    chosen = {"podSelector": {"matchLabels": dict(selector)} if selector else {}, **spec}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": chosen}


def _dns() -> Object:
    ports = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    to = [{"namespaceSelector": {"matchLabels": _DNS_NAMESPACE}}]
    return _policy("allow-dns", {}, {"policyTypes": ["Egress"], "egress": [{"to": to, "ports": ports}]})


def _network(draft: Draft, network: str, settings: Mapping[str, Any], used: bool) -> None:
    path: Path = ("networks", network)
    key = draft.network_key(network)
    policy = f"network-{draft.network_names.name(network)}"
    to = f"NetworkPolicy/{policy}"
    if used:
        peer: Object = {"podSelector": {"matchLabels": {key: "true"}}}
        if settings.get("external"):
            peer["namespaceSelector"] = {}
        egress: list[Object] = [{"to": [peer]}]
        if not settings.get("internal"):
            egress.append({"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}, {"ipBlock": {"cidr": "::/0"}}]})
        rules = {"policyTypes": ["Ingress", "Egress"], "ingress": [{"from": [peer]}], "egress": egress}
        draft.objects.append(_policy(policy, {key: "true"}, rules))
        draft.ledger.carried((*path, "internal"), f"{to}: no egress but among its pods")
        note = "pods of other stacks with its label may dial in, as NAME.NAMESPACE"
        draft.ledger.replaced((*path, "external"), f"{to}: {note}")
        draft.ledger.replaced((*path, "name"), f"{to}, by the label {key}")
    else:
        draft.ledger.dropped(path, "no service is in it")
        return
    for part, reason in (
        ("driver", "the network is the cluster's"),
        ("driver_opts", "the network is the cluster's"),
        ("ipam", "addresses are given out by the cluster"),
        ("enable_ipv6", "families of addresses are the cluster's choice"),
        ("enable_ipv4", "families of addresses are the cluster's choice"),
        ("attachable", "the network is the cluster's"),
        ("labels", "a label of a Docker network, which nothing reads on Kubernetes"),
    ):
        if part in settings:
            draft.ledger.dropped((*path, part), reason)


def _bridge(draft: Draft) -> None:
    """Docker's own default network, which the model does not list: its containers reach each other and the outside."""
    joined = [name for name, mode, _ in draft.having("network_mode") if mode in ("bridge", "default")]
    if joined:
        _network(draft, "bridge", {}, True)
    for name in joined:
        draft.pods[name].labels[draft.network_key("bridge")] = "true"


def _membership(draft: Draft, name: str, service: Mapping[str, Any], path: Path) -> None:
    for network, settings in (service.get("networks") or {}).items():
        where = (*path, "networks", network)
        draft.pods[name].labels[draft.network_key(network)] = "true"
        draft.ledger.carried(where, draft.to(name, f"label {draft.network_key(network)}"))
        for key in settings or {}:
            if key in ("ipv4_address", "ipv6_address", "link_local_ips", "mac_address", "interface_name"):
                draft.ledger.dropped((*where, key), "a pod gets its address from the cluster: peers dial its Service")
            elif key in ("priority", "gw_priority", "driver_opts"):
                draft.ledger.dropped((*where, key), "a pod has one network")


def _from_outside(draft: Draft, name: str) -> None:
    """Let in what was published, from everywhere, and what is routed, from the ingress controller."""
    selector = {draft.service_key(name): "true"}
    rules: list[Object] = []
    exposed = sorted(draft.exposed.get(name, ()))
    if exposed:
        rules.append({"ports": [{"port": port, "protocol": protocol.upper()} for port, protocol in exposed]})
    routed = sorted(draft.routed.get(name, ()))
    if routed:
        namespace = {"kubernetes.io/metadata.name": draft.policy.ingress_namespace}
        rules.append({"from": [{"namespaceSelector": {"matchLabels": namespace}}],
                      "ports": [{"port": port, "protocol": "TCP"} for port in routed]})  # fmt: skip
    if rules:
        made = _policy(f"outside-{draft.names.name(name)}", selector, {"policyTypes": ["Ingress"], "ingress": rules})
        draft.objects.append(made)
