"""The image of each container, and how it is pulled. Accounts for `image`, `build`, `pull_policy`, `platform`.

Kompose makes an image named as the service of a `build`, which no registry has.
"""

from __future__ import annotations

from homelab_pipelines.migration.draft import Draft
from homelab_pipelines.migration.values import image_tag, literal

_PULL = {
    "always": "Always", "never": "Never", "missing": "IfNotPresent", "if_not_present": "IfNotPresent",
    "daily": "Always", "weekly": "Always", "every": "Always",
}  # fmt: skip
_ARCHITECTURES = {"amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64"}


def apply(draft: Draft) -> None:
    """Set image, imagePullPolicy and the node's architecture."""
    for name, service, path in draft.services():
        image = literal(service.get("image")) or f"{draft.stack.name}-{name}"
        draft.containers[name]["image"] = image
        if "build" in service:
            decision = "the image is built here: build it, push it to a registry of the cluster, name it in image"
            draft.ledger.blocked((*path, "build"), decision)
        if "image" not in service:
            pass
        elif image_tag(image) in ("", "latest"):
            draft.ledger.carried(
                (*path, "image"),
                draft.to_container(name, "image") + "; no fixed tag: each pull may bring another version, so name one",
            )
        else:
            draft.ledger.carried((*path, "image"), draft.to_container(name, "image"))
    for name, policy, path in draft.having("pull_policy"):
        pull = "IfNotPresent" if policy == "build" else _PULL.get(str(policy).partition("_")[0], _PULL.get(policy))
        if pull == "Never" and "build" in draft.stack.model["services"][name]:
            draft.ledger.replaced(path, "imagePullPolicy of the image that is to be pushed")
        elif pull:
            draft.containers[name]["imagePullPolicy"] = pull
            exact = policy in ("always", "never", "missing", "if_not_present")
            record = draft.ledger.carried if exact else draft.ledger.replaced
            record(path, draft.to_container(name, f"imagePullPolicy {pull}"))
        else:
            draft.ledger.dropped(path, "Kubernetes pulls Always, IfNotPresent or Never")
    for name, platform, path in draft.having("platform"):
        parts = str(platform).split("/")
        architecture = parts[1] if len(parts) > 1 else parts[0]
        if architecture in _ARCHITECTURES:
            draft.pods[name].spec.setdefault("nodeSelector", {})["kubernetes.io/arch"] = architecture
            draft.ledger.carried(path, draft.to(name, "nodeSelector kubernetes.io/arch"))
        else:
            draft.ledger.dropped(path, "it names no architecture")
