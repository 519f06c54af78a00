"""`convert`: a Compose project as Kubernetes objects, with an account of every value of it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.complete.order import TRANSFORMS
from homelab_pipelines.migration.draft import Copy, Draft, Object, Pod, Policy
from homelab_pipelines.migration.errors import MigrationError
from homelab_pipelines.migration.kompose import KomposeOutput, run_kompose
from homelab_pipelines.migration.ledger import Ledger, dotted
from homelab_pipelines.migration.names import label
from homelab_pipelines.migration.stack import Place, Stack

_CONFIG_DIGEST = "homelab-pipelines/config-digest"


class Unaccounted(MigrationError):
    """Values of the model that no transform accounts for: a fault of the conversion, which is not to be used."""


@dataclass(frozen=True)
class Conversion:
    """What became of a stack. `objects` are in the order in which they are applied, without Secrets.

    `secrets` holds contents by Secret and key; they are never among the objects. `copies` is the data that has to be in
    claims before the stack starts, `requirements` what the cluster has to offer. A stack with `blockers` would break.
    """

    stack: Stack
    namespace: str
    kompose: KomposeOutput
    ledger: Ledger
    objects: tuple[Object, ...] = field(repr=False)
    secrets: dict[str, dict[str, bytes]] = field(repr=False)
    copies: tuple[Copy, ...] = ()
    requirements: tuple[str, ...] = ()

    @property
    def blockers(self) -> list[tuple[Path, Place, str]]:
        """What a person must decide: path, place, decision."""
        return self.ledger.blockers()


def convert(stack: Stack, policy: Policy | None = None) -> Conversion:
    """Convert a stack: Kompose first, then every transform.

    Raises ProgramMissing without Kompose, StackInvalid for an env file that is none, and Unaccounted when a value of
    the model is in no class.
    """
    ledger = Ledger(stack)
    draft = Draft(stack, run_kompose(stack), ledger, policy or Policy(), label(stack.name))
    for transform in TRANSFORMS:
        transform(draft)
    objects = [*draft.objects, *_config_maps(draft), *(_workload(draft, pod) for pod in draft.distinct_pods())]
    lost = ledger.unaccounted()
    if lost:
        shown = ", ".join(f"{dotted(account.path)} ({account.place})" for account in lost[:5])
        why = f"{len(lost)} values would be lost in silence: {shown}"
        raise Unaccounted(f"converting {stack.name}", why, "report this: the conversion knows no rule for these keys")
    for each in objects:
        _finish(draft, each)
    ordered = sorted(objects, key=_rank)
    return Conversion(
        stack, draft.namespace, draft.kompose, ledger, tuple(ordered), draft.secrets, tuple(draft.copies),
        tuple(draft.requirements),
    )  # fmt: skip


def _config_maps(draft: Draft) -> Iterator[Object]:
    for name, contents in sorted(draft.config.items()):
        texts, binary = {}, {}
        for key, content in sorted(contents.items()):
            text = _text(content)
            if text is None:
                binary[key] = base64.b64encode(content).decode()
            else:
                texts[key] = text
        made: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
        yield made | ({"data": texts} if texts else {}) | ({"binaryData": binary} if binary else {})


def _text(content: bytes) -> str | None:
    try:
        return None if b"\0" in content else content.decode()
    except UnicodeDecodeError:
        return None


def _workload(draft: Draft, pod: Pod) -> Object:
    """The controller of a pod."""
    chosen = {"app.kubernetes.io/name": pod.name, "app.kubernetes.io/instance": draft.namespace}
    annotations = dict(pod.annotations)
    digest = _config_digest(draft, pod)
    if digest:
        annotations[_CONFIG_DIGEST] = digest
    containers = [{key: value for key, value in each.items() if value not in ({}, [])} for each in pod.containers]
    spec = {"containers": containers, **pod.spec}
    if pod.init:
        spec["initContainers"] = pod.init
    spec.setdefault("automountServiceAccountToken", "serviceAccountName" in spec)
    # Kubernetes would put NAME_PORT=tcp://… of every Service into each container, over what images read from there.
    spec["enableServiceLinks"] = False
    template = {"metadata": {"labels": {**chosen, **pod.labels}, "annotations": annotations}, "spec": spec}
    metadata = {"name": pod.name, "annotations": dict(pod.annotations)}
    if pod.kind == "Job":
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": {**pod.job, "template": template},
        }
    body: Object = {"selector": {"matchLabels": chosen}, "template": template}
    if pod.replicas is not None:
        body["replicas"] = pod.replicas
    if pod.kind == "StatefulSet":
        body["serviceName"] = pod.containers[0]["name"]
    elif pod.kind == "Deployment" and any("persistentVolumeClaim" in each for each in pod.spec.get("volumes", ())):
        body["strategy"] = {"type": "Recreate"}
    return {"apiVersion": "apps/v1", "kind": pod.kind, "metadata": metadata, "spec": body}


def _config_digest(draft: Draft, pod: Pod) -> str:
    """A digest of the ConfigMaps that a pod reads, so that it is started anew when one of them changes."""
    sources = [source for each in pod.containers for source in each.get("envFrom", ())]
    used = {source["configMapRef"]["name"] for source in sources if "configMapRef" in source}
    used |= {volume["configMap"]["name"] for volume in pod.spec.get("volumes", ()) if "configMap" in volume}
    digest = hashlib.sha256()
    for name in sorted(used):
        for key, content in sorted(draft.config[name].items()):
            digest.update(repr((name, key, content)).encode())
    return digest.hexdigest()[:16] if used else ""


def _finish(draft: Draft, each: Object) -> None:
    """The namespace, and labels as recommended (kubernetes.io/…/working-with-objects/common-labels)."""
    metadata = each["metadata"]
    if each["kind"] != "Namespace":
        metadata["namespace"] = draft.namespace
    recommended = {
        "app.kubernetes.io/name": label(metadata["name"]),
        "app.kubernetes.io/instance": draft.namespace,
        "app.kubernetes.io/part-of": draft.namespace,
        "app.kubernetes.io/managed-by": "homelab-pipelines",
    }
    metadata["labels"] = recommended | metadata.get("labels", {})


_FIRST = (
    "Namespace", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy", "ConfigMap", "PersistentVolumeClaim",
    "Service", "Middleware",
)  # fmt: skip


def _rank(each: Object) -> tuple[int, int, str, str]:
    """Kinds that others refer to come first; workloads after those they depend on; routes last."""
    kind = each["kind"]
    if kind in _FIRST:
        return _FIRST.index(kind), 0, kind, each["metadata"]["name"]
    if kind == "IngressRoute":
        return len(_FIRST) + 1, 0, kind, each["metadata"]["name"]
    order = int(each["metadata"].get("annotations", {}).get("homelab-pipelines/apply-order", 0))
    return len(_FIRST), order, kind, each["metadata"]["name"]
