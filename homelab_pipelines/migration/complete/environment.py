"""The environment of each container: settings in a ConfigMap, secrets in a Secret.

Accounts for `environment`, `env_file`. Kompose writes all values in plain text, and lets env files win over
`environment`; here Compose itself merges them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from homelab_pipelines.migration.draft import Draft
from homelab_pipelines.migration.env_files import merged_environments
from homelab_pipelines.migration.host_paths import is_file
from homelab_pipelines.migration.peers import Peers
from homelab_pipelines.migration.secret_words import is_secret
from homelab_pipelines.migration.values import literal

# What a key of a ConfigMap may be (kubernetes.io/docs/concepts/configuration/configmap).
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


def apply(draft: Draft) -> None:
    """One ConfigMap and one Secret for each service, read with envFrom."""
    peers = Peers(draft)
    readable = {name: _readable_files(draft, name) for name, _, _ in draft.services()}
    merged = merged_environments(draft.stack, {name: files for name, files in readable.items() if files})
    for name, service, path in draft.services():
        own: Mapping[str, Any] = service.get("environment") or {}
        for key, value in own.items():
            if value is None:
                draft.ledger.dropped((*path, "environment", key), "it has no value, and nothing in the project sets it")
        if "environment" in service and not own:
            draft.ledger.carried((*path, "environment"), "nothing is set")
        _split(draft, name, merged.get(name) or {key: value for key, value in own.items() if value is not None}, peers)


def _split(draft: Draft, service: str, values: Mapping[str, Any], peers: Peers) -> None:
    """Put each variable where it belongs, and say so."""
    container, own = draft.containers[service], draft.stack.model["services"][service].get("environment") or {}
    sources: list[dict[str, Any]] = []
    object_name = f"{container['name']}-env"
    for name in sorted(values):
        path = ("services", service, "environment", name)
        if not _KEY.fullmatch(name):
            if name in own:
                draft.ledger.blocked(path, "Kubernetes takes no variable of this name: rename it")
            continue
        text, changed = peers.rewritten(service, name, literal(values[name]))
        secret = is_secret(name, text) or draft.holds_secret(text)
        contents = draft.secrets if secret else draft.config
        contents.setdefault(object_name, {})[name] = text.encode()
        to = f"{'Secret' if secret else 'ConfigMap'}/{object_name}: {name}"
        if name in own and own[name] is not None:
            draft.ledger.carried(path, f"{to}; {changed}" if changed else to)
    for kind, contents in (("configMapRef", draft.config), ("secretRef", draft.secrets)):
        if object_name in contents:
            sources.append({kind: {"name": object_name}})
    if sources:
        container["envFrom"] = sources


def _readable_files(draft: Draft, service: str) -> list[dict[str, Any]]:
    """The env files of a service that are there; the others are dropped where they need not be, or block."""
    found = []
    for index, entry in enumerate(draft.stack.model["services"][service].get("env_file") or ()):
        path = ("services", service, "env_file", index)
        if is_file(literal(entry["path"])):
            found.append(entry)
            to = f"ConfigMap and Secret {draft.containers[service]['name']}-env, by variable"
            draft.ledger.carried(path, to)
        elif entry.get("required", True):
            draft.ledger.blocked(path, "this env file is not here: put it there, or say required: false")
        else:
            draft.ledger.dropped(path, "the file is not there, and need not be")
    return found
