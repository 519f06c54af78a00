"""Services for every name that a peer dials, on the port that the container listens on.

Accounts for `ports`, `expose`, `links`, `external_links`, `container_name`, and network `aliases`. Kompose makes a
Service only of published ports, with the published number, and none for other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.draft import Draft, Object
from homelab_pipelines.migration.known_images import known_port
from homelab_pipelines.migration.names import is_label, label
from homelab_pipelines.migration.peers import Peers
from homelab_pipelines.migration.values import literal

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def apply(draft: Draft) -> None:
    """Make one Service for each service that can be reached, and one for each further name."""
    peers = Peers(draft)
    for name, service, path in draft.services():
        _ports(draft, name, service, path)
        _expose(draft, name, service, path)
    for name, service, _ in draft.services():
        ports = draft.ports.setdefault(name, [])
        dialled = {
            port
            for each in (name, literal(service.get("container_name")))
            if each
            for port in peers.dialled_ports(each)
        }
        ports += [
            (port, "tcp") for port in sorted({*dialled, *draft.routed.get(name, ())}) if (port, "tcp") not in ports
        ]
        default = known_port(literal(service.get("image")))
        if not ports and default:
            ports.append((default, "tcp"))
    _make(draft, peers)
    _links(draft)


def _ports(draft: Draft, name: str, service: Mapping[str, Any], path: Path) -> None:
    for index, port in enumerate(service.get("ports") or ()):
        where = (*path, "ports", index)
        target, protocol = int(port["target"]), str(port.get("protocol", "tcp"))
        _add(draft, name, target, protocol)
        to = f"Service/{draft.containers[name]['name']}: port {target}"
        draft.ledger.carried((*where, "target"), to)
        draft.ledger.carried((*where, "protocol"), to)
        draft.ledger.replaced((*where, "mode"), "a Service reaches each pod, on every node")
        draft.ledger.dropped((*where, "name"), "ports of a Service are named by number")
        draft.ledger.dropped((*where, "app_protocol"), "nothing in the cluster reads it")
        host = str(port.get("host_ip", ""))
        if host in _LOOPBACK:
            draft.ledger.replaced((*where, "host_ip"), "the Service alone, which nothing outside the cluster reaches")
            draft.ledger.dropped((*where, "published"), "it was for the host alone: kubectl port-forward does the same")
        elif "published" in port:
            draft.exposed.setdefault(name, set()).add((target, protocol))
            _publish(draft, name, port, where)
        if host and host not in _LOOPBACK:
            draft.ledger.dropped((*where, "host_ip"), "the load balancer chooses the address")


def _publish(draft: Draft, name: str, port: Mapping[str, Any], where: Path) -> None:
    """A published port stays reachable under its number: on the node with hostNetwork, else by a load balancer."""
    if draft.pods[name].spec.get("hostNetwork"):
        draft.ledger.dropped((*where, "published"), "with hostNetwork the port is the node's own")
        return
    published = str(port["published"])
    if not published.isdecimal():
        draft.ledger.blocked((*where, "published"), "a range of ports for one: choose one of them")
        return
    balancer = draft.names.name(f"{name}/published")
    draft.ledger.carried((*where, "published"), f"Service/{balancer}, of type LoadBalancer: port {published}")
    entry = {
        "name": f"{port.get('protocol', 'tcp')}-{published}",
        "port": int(published),
        "targetPort": int(port["target"]),
        "protocol": str(port.get("protocol", "tcp")).upper(),
    }
    known = next((each for each in draft.objects if each["metadata"]["name"] == balancer), None)
    if known is None:
        known = service_object(draft, balancer, name, [entry])
        known["spec"]["type"] = "LoadBalancer"
        draft.objects.append(known)
    elif any(each["name"] == entry["name"] and each != entry for each in known["spec"]["ports"]):
        decision = "this port is published twice, on two addresses of the host: a load balancer has one"
        draft.ledger.blocked((*where, "published"), decision)
    elif entry not in known["spec"]["ports"]:
        known["spec"]["ports"].append(entry)


def _expose(draft: Draft, name: str, service: Mapping[str, Any], path: Path) -> None:
    for index, entry in enumerate(service.get("expose") or ()):
        number, _, protocol = str(entry).partition("/")
        first, _, last = number.partition("-")
        for port in range(int(first), int(last or first) + 1):
            _add(draft, name, port, protocol or "tcp")
        draft.ledger.carried((*path, "expose", index), f"Service/{draft.containers[name]['name']}: port {number}")


def _add(draft: Draft, name: str, port: int, protocol: str) -> None:
    ports = draft.ports.setdefault(name, [])
    if (port, protocol) not in ports:
        ports.append((port, protocol))
    container = draft.containers[name].setdefault("ports", [])
    entry = {"containerPort": port, "protocol": protocol.upper()}
    if entry not in container and not draft.pods[name].spec.get("hostNetwork"):
        container.append(entry)


def _make(draft: Draft, peers: Peers) -> None:
    taken: dict[str, str] = {}
    for name, _, _ in draft.services():
        taken[draft.containers[name]["name"]] = name
        if draft.ports[name] or peers.dialled(name):
            draft.objects.append(_internal(draft, draft.containers[name]["name"], name))
    for name, service, path in draft.services():
        aliases = {}
        for network, its in (service.get("networks") or {}).items():
            for index, alias in enumerate((its or {}).get("aliases") or ()):
                aliases[(*path, "networks", network, "aliases", index)] = literal(alias)
        if "container_name" in service:
            aliases[(*path, "container_name")] = literal(service["container_name"])
        for where, alias in aliases.items():
            _alias(draft, peers, name, alias, where, taken)
        hostname = literal(service.get("hostname"))
        if hostname and peers.dialled(hostname) and label(hostname) not in taken:
            taken[label(hostname)] = name
            draft.objects.append(_internal(draft, label(hostname), name))


def _alias(draft: Draft, peers: Peers, name: str, alias: str, where: Path, taken: dict[str, str]) -> None:
    valid = label(alias)
    container_name = where[-1] == "container_name"
    if taken.get(valid) == name:
        draft.ledger.replaced(where, f"Service/{valid}")
    elif valid in taken:
        if peers.dialled(alias):
            draft.ledger.blocked(where, f"{taken[valid]} has this name too, and peers dial it: give one another name")
        else:
            draft.ledger.dropped(where, f"{taken[valid]} has this name too, and no peer dials it")
    elif container_name and not peers.dialled(alias):
        draft.ledger.replaced(where, f"{draft.pods[name].kind}/{draft.pods[name].name}; no peer dials this name")
    else:
        taken[valid] = name
        draft.objects.append(_internal(draft, valid, name))
        note = "" if is_label(alias) else "; as host it is written so in the environment of peers"
        draft.ledger.carried(where, f"Service/{valid}{note}")


def _internal(draft: Draft, object_name: str, name: str) -> Object:
    """A ClusterIP for known ports; headless where none is known, so that every port can be dialled."""
    ports = [
        {"name": f"{protocol}-{port}", "port": port, "targetPort": port, "protocol": protocol.upper()}
        for port, protocol in sorted(draft.ports[name])
    ]
    made = service_object(draft, object_name, name, ports)
    if not ports:
        made["spec"] |= {"clusterIP": "None"}
        made["spec"].pop("ports")
    return made


def service_object(draft: Draft, object_name: str, service: str, ports: list[Object]) -> Object:
    """A Service for the pod that one of Compose's services is in."""
    selector = {draft.service_key(service): "true"}
    spec = {"selector": selector, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": object_name}, "spec": spec}


def _links(draft: Draft) -> None:
    made = {each["metadata"]["name"] for each in draft.objects if each["kind"] == "Service"}
    for _, links, path in draft.having("links"):
        for index, link in enumerate(links):
            other, _, alias = literal(link).partition(":")
            wanted = label(alias or other)
            if wanted not in made and other in draft.containers:
                made.add(wanted)
                draft.objects.append(_internal(draft, wanted, other))
            draft.ledger.replaced((*path, index), f"Service/{wanted}")
    for _, _, path in draft.having("external_links"):
        draft.ledger.blocked(path, "it leads to a container outside this stack: say which, and dial its Service")
