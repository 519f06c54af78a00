"""Names and addresses that a container knows.

Accounts for `hostname`, `domainname`, `extra_hosts`, `dns`, `dns_search`, `dns_opt`, `mac_address`.
Kompose writes host names that the API server refuses, and drops the rest.
"""

from __future__ import annotations

import ipaddress
import re

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.draft import Draft
from homelab_pipelines.migration.names import label
from homelab_pipelines.migration.values import literal

# Limits of a pod's resolv.conf (kubernetes.io/docs/concepts/services-networking/dns-pod-service).
_MOST_NAMESERVERS, _MOST_SEARCHES = 2, 32


def apply(draft: Draft) -> None:
    """Set hostname, hostAliases and dnsConfig of pods."""
    for name, value, path in draft.having("hostname"):
        _hostname(draft, name, literal(value), path)
    for _, _, path in draft.having("domainname"):
        draft.ledger.dropped(path, "a pod's domain is the cluster's")
    for name, entries, path in draft.having("extra_hosts"):
        pairs = [(index, *_split(literal(entry))) for index, entry in enumerate(entries)]
        for index, host, address in pairs:
            _extra_host(draft, name, host, address, (*path, index))
    own = _own_addresses(draft)
    for name, servers, path in draft.having("dns"):
        listed = [servers] if isinstance(servers, str) else list(servers)
        for index, server in enumerate(listed):
            where = (*path, index) if not isinstance(servers, str) else path
            _nameserver(draft, name, literal(server), where, own)
    for key, field in (("dns_search", "searches"), ("dns_opt", "options")):
        for name, values, path in draft.having(key):
            config = draft.pods[name].spec.setdefault("dnsConfig", {})
            texts = [literal(value) for value in ([values] if isinstance(values, str) else values)]
            config[field] = texts[:_MOST_SEARCHES] if field == "searches" else [_option(text) for text in texts]
            draft.ledger.carried(path, draft.to(name, f"dnsConfig.{field}"))
    for _, _, path in draft.having("mac_address"):
        draft.ledger.dropped(path, "a pod's address on the network is the cluster's choice")


def _hostname(draft: Draft, name: str, value: str, path: Path) -> None:
    pod = draft.pods[name]
    if pod.spec.get("hostNetwork"):
        draft.ledger.dropped(path, "with hostNetwork a pod has its node's name")
        return
    first = value.partition(".")[0]
    valid = first if re.fullmatch("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", first) else label(first)
    pod.spec.setdefault("hostname", valid)
    changed = "" if valid == value else f", as {valid}"
    draft.ledger.carried(path, draft.to(name, "hostname") + changed)


def _split(entry: str) -> tuple[str, str]:
    host, separator, address = entry.partition("=")
    return (host, address) if separator else (entry.partition(":")[0], entry.partition(":")[2])


def _extra_host(draft: Draft, name: str, host: str, address: str, path: Path) -> None:
    try:
        ip = str(ipaddress.ip_address(address.strip("[]")))
    except ValueError:
        decision = "host-gateway is Docker's host, which a pod has not: write the address, or the name, it stands for"
        draft.ledger.blocked(path, decision)
        return
    aliases = draft.pods[name].spec.setdefault("hostAliases", [])
    entry = next((each for each in aliases if each["ip"] == ip), None)
    if entry is None:
        aliases.append({"ip": ip, "hostnames": [host]})
    elif host not in entry["hostnames"]:
        entry["hostnames"].append(host)
    draft.ledger.carried(path, draft.to(name, "hostAliases"))


def _own_addresses(draft: Draft) -> set[str]:
    return {
        literal(network.get(key))
        for _, service, _ in draft.services()
        for network in (service.get("networks") or {}).values()
        for key in ("ipv4_address", "ipv6_address")
        if network and network.get(key)
    }


def _nameserver(draft: Draft, name: str, server: str, path: Path, own: set[str]) -> None:
    if server in own:
        draft.ledger.replaced(path, "the cluster's DNS: this was a container of the stack")
        return
    servers = draft.pods[name].spec.setdefault("dnsConfig", {}).setdefault("nameservers", [])
    if server not in servers and len(servers) >= _MOST_NAMESERVERS:
        draft.ledger.dropped(path, "a pod knows three name servers, of which the cluster's is the first")
        return
    if server not in servers:
        servers.append(server)
    note = "after the cluster's DNS, which knows the names of Services"
    draft.ledger.carried(path, draft.to(name, f"dnsConfig.nameservers, {note}"))


def _option(text: str) -> dict[str, str]:
    name, separator, value = text.partition(":")
    return {"name": name, "value": value} if separator else {"name": name}
