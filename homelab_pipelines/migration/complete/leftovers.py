"""Keys that have no counterpart, each with its reason, and those that a person must decide about."""

from __future__ import annotations

from homelab_pipelines.migration.draft import Draft
from homelab_pipelines.migration.values import literal, whole_seconds

_DROPPED = {
    "logging": "the kubelet keeps and rotates what containers write; a log collector reads it there",
    "attach": "it is about what `docker compose up` shows",
    "develop": "it is about development with `docker compose watch`",
    "stop_signal": "Kubernetes sends the signal that the image names",
    "isolation": "it is for Windows",
    "use_api_socket": "the nodes have no Docker",
    "extends": "Compose has resolved it",
}
_BLOCKED = {
    "volumes_from": "name the volumes that it shares in volumes",
    "provider": "a provider of Compose has no counterpart: run what it stands for on the cluster",
    "models": "a model of Compose has no counterpart: run a server for it",
}


def apply(draft: Draft) -> None:
    """Account for the rest, and set what is left: grace period, hooks."""
    for key, reason in _DROPPED.items():
        for _, _, path in draft.having(key):
            draft.ledger.dropped(path, reason)
    for key, decision in _BLOCKED.items():
        for _, _, path in draft.having(key):
            draft.ledger.blocked(path, decision)
    for name, value, path in draft.having("stop_grace_period"):
        spec = draft.pods[name].spec
        spec["terminationGracePeriodSeconds"] = max(
            spec.get("terminationGracePeriodSeconds", 0), whole_seconds(value, 10)
        )
        draft.ledger.carried(path, draft.to(name, "terminationGracePeriodSeconds"))
    for key, field in (("post_start", "postStart"), ("pre_stop", "preStop")):
        for name, hooks, path in draft.having(key):
            hook = hooks[0] if len(hooks) == 1 else {}
            if not hook or set(hook) - {"command"}:
                draft.ledger.blocked(path, "Kubernetes has one hook, as the container's user: write one command")
                continue
            command = [literal(word) for word in hook["command"]]
            draft.containers[name].setdefault("lifecycle", {})[field] = {"exec": {"command": command}}
            draft.ledger.carried(path, draft.to_container(name, f"lifecycle.{field}"))
    for key in draft.stack.model:
        if key.startswith("x-"):
            draft.ledger.dropped((key,), "an extension: Compose ignores it, but for anchors, which are resolved")
    for _, service, path in draft.services():
        for key in service:
            if key.startswith("x-"):
                draft.ledger.dropped((*path, key), "an extension: Compose ignores it")
    if "models" in draft.stack.model:
        draft.ledger.blocked(("models",), _BLOCKED["models"])
