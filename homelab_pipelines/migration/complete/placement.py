"""Which nodes may run a pod. Accounts for `deploy.placement`. Kompose's node affinity is right, and taken over."""

from __future__ import annotations

import re
from typing import Any

from homelab_pipelines.migration.draft import Draft
from homelab_pipelines.migration.values import literal

_CONSTRAINT = re.compile(r"\s*([\w.-]+)\s*(==|!=)\s*(.+?)\s*")


def apply(draft: Draft) -> None:
    """Take Kompose's affinity and spread, and account for the constraints that it understood."""
    templates = {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in draft.kompose.objects()
                 if each.get("kind") in ("Deployment", "DaemonSet")}  # fmt: skip
    for name, deploy, path in draft.having("deploy"):
        placement = deploy.get("placement")
        if placement is None:
            continue
        where = (*path, "placement")
        if not placement:
            draft.ledger.carried(where, "nothing is set")
        spec: dict[str, Any] = templates.get(draft.containers[name]["name"], {})
        affinity = (spec.get("affinity") or {}).get("nodeAffinity")
        if affinity:
            draft.pods[name].spec.setdefault("affinity", {})["nodeAffinity"] = affinity
        for index, constraint in enumerate(placement.get("constraints") or ()):
            _constraint(draft, name, literal(constraint), (*where, "constraints", index), affinity)
        for index, preference in enumerate(placement.get("preferences") or ()):
            _preference(draft, name, literal(preference.get("spread")), (*where, "preferences", index))
        if "max_replicas_per_node" in placement:
            draft.ledger.dropped((*where, "max_replicas_per_node"), "write a topologySpreadConstraint")


def _constraint(draft: Draft, name: str, text: str, path: Any, affinity: Any) -> None:
    match = _CONSTRAINT.fullmatch(text)
    key = match[1] if match else ""
    value = match[3] if match else ""
    if (key.startswith("node.labels.") and _expressed(affinity, key.removeprefix("node.labels."), value)) or (
        key == "node.hostname" and _expressed(affinity, "kubernetes.io/hostname", value)
    ):
        draft.ledger.carried(path, draft.to(name, "affinity.nodeAffinity"))
    elif key == "node.role":
        draft.ledger.dropped(path, "a role in Docker Swarm says nothing of the cluster's nodes")
    elif key == "engine.labels.operatingsystem":
        draft.ledger.dropped(path, "a property of the Docker Engine, which nodes have not")
    else:
        draft.ledger.blocked(
            path, "this constraint has no counterpart: label the nodes, and use node.labels.NAME == VALUE"
        )


def _expressed(affinity: Any, key: str, value: str) -> bool:
    """Whether Kompose's affinity says it."""
    terms = ((affinity or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get(
        "nodeSelectorTerms"
    ) or ()
    return any(
        expression["key"] == key and value in (expression.get("values") or ())
        for term in terms
        for expression in term.get("matchExpressions") or ()
    )


def _preference(draft: Draft, name: str, spread: str, path: Any) -> None:
    key = spread.removeprefix("node.labels.")
    constraint = {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app.kubernetes.io/name": draft.pods[name].name}},
    }
    draft.pods[name].spec.setdefault("topologySpreadConstraints", []).append(constraint)
    draft.ledger.carried(path, draft.to(name, "topologySpreadConstraints"))
