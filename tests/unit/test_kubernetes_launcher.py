"""What the launcher says of a pod, for ends that a test cluster does not bring about."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from kubernetes.client import (
    V1Container,
    V1ContainerState,
    V1ContainerStateTerminated,
    V1ContainerStateWaiting,
    V1ContainerStatus,
    V1ObjectMeta,
    V1Pod,
    V1PodCondition,
    V1PodSpec,
    V1PodStatus,
    V1ResourceRequirements,
)

from homelab_pipelines.kubernetes_launcher import how_it_ended, why_not_started


def pod(
    state: V1ContainerState | None = None, limits: dict[str, str] | None = None, deleted: bool = False, **status: Any
) -> V1Pod:
    """A run's pod on node pi4 whose container is in a state."""
    statuses = [
        V1ContainerStatus(
            image="homelab-pipelines:1", image_id="", name="dagster", ready=False, restart_count=0, state=state
        )
    ]
    container = V1Container(name="dagster", resources=V1ResourceRequirements(limits=limits))
    return V1Pod(
        metadata=V1ObjectMeta(name="run", deletion_timestamp=datetime(2026, 1, 1, tzinfo=UTC) if deleted else None),
        spec=V1PodSpec(containers=[container], node_name="pi4"),
        status=V1PodStatus(container_statuses=statuses if state else None, **status),
    )


def ended(code: int, **more: str) -> V1ContainerState:
    return V1ContainerState(terminated=V1ContainerStateTerminated(exit_code=code, **more))


def disrupted(reason: str) -> V1PodCondition:
    return V1PodCondition(type="DisruptionTarget", status="True", reason=reason)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            pod(ended(137, reason="OOMKilled"), {"memory": "2Gi"}),
            "needed more memory than its limit of 2Gi; next: raise",
        ),
        (pod(ended(137, reason="OOMKilled")), "needed more memory than node pi4 has; next: raise"),
        (pod(ended(137, reason="Error")), "was killed (SIGKILL) on node pi4"),
        (pod(ended(143, reason="Error")), "was told to end (SIGTERM) on node pi4"),
        (pod(ended(1, message="no such module")), "ended with status 1 before the run did (no such module)"),
        (
            pod(ended(137), reason="Evicted", message="The node was low on resource: ephemeral-storage."),
            "was evicted from node pi4: The node was low on resource: ephemeral-storage.",
        ),
        (pod(reason="NodeLost"), "is gone with its node pi4"),
        (pod(conditions=[disrupted("DeletionByTaintManager")], deleted=True), "its node pi4 was given up"),
        (pod(conditions=[disrupted("EvictionByEvictionAPI")]), "was evicted, as when its node pi4 is drained"),
        (pod(ended(143), conditions=[disrupted("TerminationByKubelet")]), "was ended by its node pi4, which shut down"),
        (pod(conditions=[disrupted("PreemptionByScheduler")]), "to make room for a pod of higher priority"),
        (pod(deleted=True), "was deleted while the run was under way"),
        (pod(phase="Unknown"), "is Unknown on node pi4: no reason is known"),
    ],
)
def test_end_of_a_pod_is_said_in_words(given: V1Pod, words: str) -> None:
    assert words in how_it_ended(given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            pod(V1ContainerState(waiting=V1ContainerStateWaiting(reason="ImagePullBackOff", message="no such host"))),
            "waits on node pi4, ImagePullBackOff: no such host\n  next: bring image homelab-pipelines:1 to the node",
        ),
        (
            pod(V1ContainerState(waiting=V1ContainerStateWaiting(reason="CreateContainerConfigError"))),
            "waits on node pi4, CreateContainerConfigError: no more is known",
        ),
        (
            pod(conditions=[V1PodCondition(type="PodScheduled", status="False", message="0/2 nodes are available")]),
            "fits on no node: 0/2 nodes are available",
        ),
        (pod(ended(1)), "ended with status 1 before the run did"),
        (pod(phase="Pending"), "next: kubectl describe pod run"),
    ],
)
def test_pod_that_did_not_start_is_said_in_words(given: V1Pod, words: str) -> None:
    assert words in why_not_started(given)
