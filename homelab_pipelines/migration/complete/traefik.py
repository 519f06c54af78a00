"""Traefik's labels as its own resources: IngressRoute, Middleware, and the port that a router leads to.

Accounts for `labels` and `deploy.labels` that begin with `traefik.`. Kompose makes annotations of them, which nothing
reads. Labels: doc.traefik.io/traefik/routing/providers/docker; resources: …/providers/kubernetes-crd.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.complete.traefik_fields import BY_LABEL
from homelab_pipelines.migration.draft import Draft, Object
from homelab_pipelines.migration.names import label
from homelab_pipelines.migration.peers import names_of
from homelab_pipelines.migration.values import literal

_API = "traefik.io/v1alpha1"
_ROUTER = {"rule", "entrypoints", "service", "middlewares", "priority", "tls", "tls.certresolver", "tls.options"}
# Keys of Traefik 1, which read other labels: traefik.frontend.rule, traefik.port, traefik.backend …
_FIRST_VERSION = ("frontend", "backend", "port", "protocol", "weight")


@dataclass
class _Labels:
    """The labels of one service: value and path by lower-case key; which of them are accounted for."""

    values: dict[str, tuple[str, Path]] = field(default_factory=dict)

    def below(self, prefix: str) -> dict[str, tuple[str, Path]]:
        return {key[len(prefix) :]: value for key, value in self.values.items() if key.startswith(prefix)}


def apply(draft: Draft) -> None:
    """Make routes and middlewares from every service's labels."""
    all_labels = {name: _labels(service, path) for name, service, path in draft.services()}
    middlewares: dict[str, str] = {}
    for labels in all_labels.values():
        for name in _named(labels, "traefik.http.middlewares."):
            middlewares.setdefault(name, draft.names.name(f"middleware/{name}"))
    for service, labels in all_labels.items():
        if labels.values:
            _service(draft, service, labels, middlewares)


def _labels(service: Mapping[str, Any], path: Path) -> _Labels:
    found = _Labels()
    for where, given in (
        ((*path, "labels"), service.get("labels")),
        ((*path, "deploy", "labels"), (service.get("deploy") or {}).get("labels")),
    ):
        for key, value in (given or {}).items():
            if key.lower().startswith("traefik."):
                found.values[key.lower()] = (literal(value), (*where, key))
    return found


def _named(labels: _Labels, prefix: str) -> list[str]:
    return list(dict.fromkeys(key.partition(".")[0] for key in labels.below(prefix)))


def _service(draft: Draft, service: str, labels: _Labels, middlewares: Mapping[str, str]) -> None:
    enabled, where = labels.values.get("traefik.enable", ("true", ()))
    if enabled.lower() == "false":
        for key, (_, path) in labels.values.items():
            if key == "traefik.enable":
                draft.ledger.carried(path, "no IngressRoute is made")
            else:
                draft.ledger.dropped(path, "traefik.enable is false beside it")
        return
    if where:
        draft.ledger.replaced(where, "an IngressRoute for each router")
    _first_version(draft, labels)
    for name in _named(labels, "traefik.http.middlewares."):
        _middleware(draft, name, labels, middlewares)
    ports = _ports(draft, service, labels)
    for name in _named(labels, "traefik.http.routers."):
        _router(draft, service, name, labels, middlewares, ports)
    for kind in ("tcp", "udp"):
        for rest, (_, path) in labels.below(f"traefik.{kind}.").items():
            if rest.endswith(".rule") or kind == "udp":
                draft.ledger.blocked(path, f"a {kind.upper()} route: write an IngressRoute{kind.upper()} for it")
            else:
                draft.ledger.dropped(path, "part of a route that waits for a decision")
    _rest(draft, labels)


def _first_version(draft: Draft, labels: _Labels) -> None:
    for rest, (_, path) in labels.below("traefik.").items():
        parts = rest.split(".")
        if parts[0] in ("http", "tcp", "udp", "enable", "docker", "swarm"):
            continue
        if any(part in _FIRST_VERSION for part in parts[:2]):
            if parts[-1] == "rule":
                draft.ledger.blocked(path, "a rule of Traefik 1: write it as a router of Traefik 3")
            else:
                draft.ledger.dropped(path, "a label of Traefik 1, which Traefik 3 does not read")


def _rest(draft: Draft, labels: _Labels) -> None:
    """Labels that are about Docker, or that Traefik does not know."""
    for key, (_, path) in labels.values.items():
        if draft.ledger.fate(path) is None:
            if key.startswith(("traefik.docker.", "traefik.swarm.")):
                draft.ledger.replaced(path, "the cluster's own network")
            else:
                draft.ledger.dropped(path, "Traefik 3 has no label of this name, or reads no such label for HTTP")


def _ports(draft: Draft, service: str, labels: _Labels) -> dict[str, tuple[int, str]]:
    """Port and scheme of each of the labelled services; account for their labels."""
    found: dict[str, tuple[int, str]] = {}
    for name in _named(labels, "traefik.http.services."):
        settings = labels.below(f"traefik.http.services.{name}.")
        port, where = settings.get("loadbalancer.server.port", ("", ()))
        scheme = settings.get("loadbalancer.server.scheme", ("http", ()))[0]
        if port.isdecimal():
            found[name] = (int(port), scheme)
            draft.routed.setdefault(service, set()).add(int(port))
            draft.ledger.carried(where, "IngressRoute: the port of its service")
        elif where:
            draft.ledger.blocked(where, "the port of this route is no number: write it")
        for rest, (_, path) in settings.items():
            if rest == "loadbalancer.server.scheme":
                draft.ledger.carried(path, "IngressRoute: the scheme of its service")
            elif rest != "loadbalancer.server.port":
                draft.ledger.dropped(path, "Traefik's default is used: write it into the IngressRoute's service")
    return found


def _router(
    draft: Draft,
    service: str,
    name: str,
    labels: _Labels,
    middlewares: Mapping[str, str],
    ports: Mapping[str, tuple[int, str]],
) -> None:
    settings = labels.below(f"traefik.http.routers.{name}.")
    rule, rule_path = settings.get("rule", ("", ()))
    if not rule:
        for _, path in settings.values():
            draft.ledger.dropped(
                path, "the router has no rule of its own: Traefik's default rule is a setting of Traefik"
            )
        return
    wanted = settings.get("service", ("", ()))[0].partition("@")[0]
    port = ports.get(wanted.lower()) or next(iter(ports.values()), None) or _first_port(draft, service)
    if port is None or "@" in settings.get("service", ("", ()))[0]:
        what = "it leads to a service outside these labels" if port else "no port is known that this route leads to"
        draft.ledger.blocked(
            rule_path, f"{what}: write the label …loadbalancer.server.port, or an IngressRoute by hand"
        )
        for key, (_, path) in settings.items():
            if key != "rule":
                draft.ledger.dropped(path, "part of a route that waits for a decision")
        return
    draft.routed.setdefault(service, set()).add(port[0])
    to = f"IngressRoute/{draft.names.name(f'router/{name}')}"
    backend: Object = {"name": draft.containers[service]["name"], "port": port[0]}
    backend |= {"scheme": port[1]} if port[1] != "http" else {}
    route: Object = {"kind": "Rule", "match": modern_rule(rule), "services": [backend]}
    spec: Object = {"routes": [route]}
    if "entrypoints" in settings:
        spec["entryPoints"] = _listed(settings["entrypoints"][0])
    if settings.get("priority", ("", ()))[0].isdecimal():
        route["priority"] = int(settings["priority"][0])
    references = []
    for each in _listed(settings.get("middlewares", ("", ()))[0]):
        references.append(_reference(draft, each, middlewares, settings["middlewares"][1]))
    if any(references):
        route["middlewares"] = [each for each in references if each]
    _tls(spec, settings)
    draft.objects.append(
        {"apiVersion": _API, "kind": "IngressRoute", "metadata": {"name": to.partition("/")[2]}, "spec": spec}
    )
    for key, (_, path) in settings.items():
        if key in _ROUTER or key.startswith("tls.domains["):
            draft.ledger.carried(path, to)
        else:
            draft.ledger.dropped(path, "Traefik's resource has no field for it")


def _first_port(draft: Draft, service: str) -> tuple[int, str] | None:
    """Traefik takes the lowest port that the container exposes."""
    configuration = draft.stack.model["services"][service]
    ports = [int(port["target"]) for port in configuration.get("ports") or ()]
    ports += [int(str(port).partition("/")[0].partition("-")[0]) for port in configuration.get("expose") or ()]
    return (min(ports), "http") if ports else None


def _reference(draft: Draft, name: str, middlewares: Mapping[str, str], path: Path) -> Object | None:
    plain, _, provider = name.partition("@")
    if plain.lower() in middlewares and provider in ("", "docker"):
        return {"name": middlewares[plain.lower()]}
    decision = f"the middleware {plain} is defined outside this stack's labels: make a Middleware of this name for it"
    if plain and re.fullmatch(r"[\w.-]+", plain):
        draft.ledger.blocked(path, decision)
    return None


def _tls(spec: Object, settings: Mapping[str, tuple[str, Path]]) -> None:
    keys = {key: value for key, (value, _) in settings.items() if key == "tls" or key.startswith("tls.")}
    if not keys or keys.get("tls", "true").lower() == "false":
        return
    tls: Object = {}
    if keys.get("tls.certresolver"):
        tls["certResolver"] = keys["tls.certresolver"]
    if keys.get("tls.options"):
        tls["options"] = {"name": label(keys["tls.options"].partition("@")[0])}
    domains: dict[str, Object] = {}
    for key, value in sorted(keys.items()):
        match = re.fullmatch(r"tls\.domains\[(\d+)\]\.(main|sans)", key)
        if match:
            domains.setdefault(match[1], {})[match[2]] = _listed(value) if match[2] == "sans" else value
    if domains:
        tls["domains"] = [domains[index] for index in sorted(domains, key=int)]
    spec["tls"] = tls


def _middleware(draft: Draft, name: str, labels: _Labels, middlewares: Mapping[str, str]) -> None:
    object_name = middlewares[name]
    spec: Object = {}
    settings = labels.below(f"traefik.http.middlewares.{name}.")
    for rest, (value, path) in settings.items():
        to = f"Middleware/{object_name}: {rest}"
        if rest in ("basicauth.users", "digestauth.users"):
            kind = "basicAuth" if rest.startswith("basic") else "digestAuth"
            draft.secrets.setdefault(f"{object_name}-users", {})["users"] = "\n".join(_listed(value)).encode()
            spec.setdefault(kind, {})["secret"] = f"{object_name}-users"
            draft.ledger.carried(path, f"Secret/{object_name}-users, and {to}")
        elif rest == "chain.middlewares":
            found = [_reference(draft, each, middlewares, path) for each in _listed(value)]
            spec["chain"] = {"middlewares": [each for each in found if each]}
            draft.ledger.carried(path, to)
        elif _field(spec, rest, _from_traefik(draft, value) if rest == "forwardauth.address" else value):
            draft.ledger.carried(path, to)
        else:
            draft.ledger.blocked(path, "Traefik's Middleware has no such field: write it as Traefik 3 has it")
    draft.objects.append({"apiVersion": _API, "kind": "Middleware", "metadata": {"name": object_name}, "spec": spec})


def _from_traefik(draft: Draft, address: str) -> str:
    """An address as Traefik dials it from another namespace: NAME of this stack is NAME.NAMESPACE.svc there."""
    match = re.match(r"(https?)://([^/:?#]+)(?::(\d+))?", address)
    if match is None:
        return address
    for name, service, _ in draft.services():
        if match[2] in names_of(name, service):
            port = int(match[3] or (443 if match[1] == "https" else 80))
            draft.routed.setdefault(name, set()).add(port)
            host = f"{draft.containers[name]['name']}.{draft.namespace}.svc"
            return f"{address[: match.start(2)]}{host}{address[match.end(2) :]}"
    return address


def _field(spec: Object, rest: str, value: str) -> bool:
    """Set a field of a Middleware from a label; False where there is no such field, or the value does not fit."""
    rest = re.sub("^ipwhitelist", "ipallowlist", rest)
    found = BY_LABEL.get(rest)
    key = None
    if found is None:
        before, _, key = rest.rpartition(".")
        found = BY_LABEL.get(before)
        if found is None or found[1] != "map":
            if rest in ("compress", "contenttype", "grpcweb") and value.lower() == "true":
                spec[{"contenttype": "contentType", "grpcweb": "grpcWeb"}.get(rest, rest)] = {}
                return True
            return False
    path, kind = found
    typed = value if kind == "map" else _typed(value, kind)
    if typed is None:
        return False
    *parents, last = path.split(".")
    target = spec
    for parent in parents:
        target = target.setdefault(parent, {})
    if key is not None:
        target.setdefault(last, {})["-".join(part.capitalize() for part in key.split("-"))] = typed
    else:
        target[last] = typed
    return True


def _typed(value: str, kind: str) -> Any:
    if kind == "boolean":
        return {"true": True, "false": False, "1": True, "0": False}.get(value.lower())
    if kind == "integer":
        return int(value) if re.fullmatch("-?[0-9]+", value) else None
    if kind == "integer-or-string":
        return int(value) if value.isdecimal() else value
    return _listed(value) if kind == "list" else value


def _listed(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def modern_rule(rule: str) -> str:
    """A rule of Traefik 2 as Traefik 3 reads it: one value a matcher (doc.traefik.io/traefik/migrate/v2-to-v3)."""

    def one_each(match: re.Match[str]) -> str:
        name, values = match[1], re.findall(r"`[^`]*`|\"[^\"]*\"", match[2])
        name = {"Headers": "Header", "HeadersRegexp": "HeaderRegexp"}.get(name, name)
        if name in ("Header", "HeaderRegexp", "Query") or len(values) < 2:
            return f"{name}({match[2]})"
        return "(" + " || ".join(f"{name}({value})" for value in values) + ")"

    return re.sub(r"\b([A-Z]\w+)\(((?:\s*(?:`[^`]*`|\"[^\"]*\")\s*,?)+)\)", one_each, rule)
