"""Labels that are not Traefik's. Accounts for `labels`, `deploy.labels`, `annotations`, `label_file`.

Kompose writes them as annotations on four kinds of objects.
"""

from __future__ import annotations

import re

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.draft import Draft
from homelab_pipelines.migration.secret_words import is_secret
from homelab_pipelines.migration.values import literal

# Tools that read labels from Docker's socket, by the beginning of the label.
_TOOLS = {
    "com.centurylinklabs.watchtower": "Watchtower",
    "homepage.": "Homepage",
    "ofelia.": "Ofelia",
    "flame.": "Flame",
    "diun.": "Diun",
    "autoheal": "autoheal",
    "deunhealth": "deunhealth",
    "wud.": "What's up Docker",
    "dozzle.": "Dozzle",
    "caddy": "caddy-docker-proxy",
    "kuma.": "AutoKuma",
    "docker-volume-backup": "docker-volume-backup",
    "glance.": "Glance",
    "sablier.": "Sablier",
    "cloudflare.tunnel": "cloudflared",
    "swag": "SWAG",
    "com.docker.": "Docker",
    "dockge": "Dockge",
    "tsdproxy": "TSDProxy",
    "docktail": "docktail",
    "org.label-schema.group": "Weave Scope",
}
# kubernetes.io/docs/concepts/overview/working-with-objects/annotations: prefix/name.
_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?")


def apply(draft: Draft) -> None:
    """Carry labels as annotations of the pod, but those for tools that read them from Docker."""
    for name, labels, path in draft.having("labels"):
        _labels(draft, name, labels, path)
    for name, deploy, path in draft.having("deploy"):
        _labels(draft, name, deploy.get("labels") or {}, (*path, "labels"))
    for name, given, path in draft.having("annotations"):
        _labels(draft, name, given, path)
    for _, _, path in draft.having("label_file"):
        draft.ledger.dropped(path, "Compose reads it into labels")


def _labels(draft: Draft, name: str, labels: dict[str, object], path: Path) -> None:
    if not labels:
        draft.ledger.carried(path, "nothing is set")
    for key, value in labels.items():
        where = (*path, key)
        if key.lower().startswith("traefik."):
            continue
        tool = next((tool for start, tool in _TOOLS.items() if key.lower().startswith(start)), None)
        if tool:
            draft.ledger.dropped(where, f"{tool} reads it from Docker, and nothing reads it on Kubernetes")
        elif is_secret(key, literal(value)) or draft.holds_secret(literal(value)):
            draft.ledger.dropped(where, "it looks like a secret, which is not put into an annotation")
        elif not _KEY.fullmatch(key):
            draft.ledger.dropped(where, "Kubernetes allows no annotation of this name")
        else:
            draft.pods[name].annotations[key] = literal(value)
            draft.ledger.carried(where, draft.to(name, "annotations of the pod"))
