"""Dagster's run launcher for Kubernetes, saying in words how a run's pod ended, and leaving no pod of a run given up.

Its own words are "K8s job has no active pods" and the API's objects, which people read in a run's log and in alerts.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import kubernetes.client
import urllib3.exceptions
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster_k8s import K8sRunLauncher
from dagster_k8s.client import DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError
from dagster_k8s.job import get_job_name_from_run_id
from kubernetes.client import ApiException, V1Pod

POD_VARIABLE = "HOMELAB_POD"
"""The name of the pod that this process runs in, from the pod's own metadata (deploy/kubernetes/base/daemon.yaml)."""
# Shorter than start_timeout_seconds of dagster.yaml, after which run monitoring gives the run up.
_PATIENCE_MINUTES = 4
_CONFLICT = 409
_LOG_LINES = 5
_LOG_WIDTH = 400
# 128 and the number of the signal (bash(1), EXIT STATUS); containerd says the same of a container's first process.
_KILLED, _TERMINATED = 137, 143
# Reasons of the pod condition DisruptionTarget (kubernetes.io/docs/concepts/workloads/pods/disruptions).
_DISRUPTED = {
    "PreemptionByScheduler": "was ended to make room for a pod of higher priority",
    "DeletionByTaintManager": "was ended because its node {node} was given up: it is gone, not ready, or was tainted",
    "DeletionByPodGC": "is gone with its node {node}",
    "EvictionByEvictionAPI": "was evicted, as when its node {node} is drained",
    "TerminationByKubelet": "was ended by its node {node}, which shut down or ran out of memory or disk",
}
_MEMORY_NEXT = (
    "next: raise resources.limits.memory of the launcher in dagster.yaml, or of the run: tag dagster-k8s/config"
)


class KubernetesRunLauncher(K8sRunLauncher):
    """Launches runs in pods, as its base does: one Job with one pod for each run."""

    @property
    def job_image(self) -> str:
        """What `job_image` names in dagster.yaml; else the image of this process's own pod, which has all code."""
        if self._job_image is None:
            pod = self._pods().read_namespaced_pod(os.environ[POD_VARIABLE], self.job_namespace)
            self._job_image = pod.spec.containers[0].image
        return str(self._job_image)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Make a run's Job, and wait for an API server that does not answer. Raises ConnectionError after some minutes.

        A Job of this run that is there already was made by a request whose answer was lost.
        """
        deadline, away = time.monotonic() + 60 * _PATIENCE_MINUTES, False
        while True:
            try:
                return super().launch_run(context)
            except (
                DagsterK8sAPIRetryLimitExceeded,
                DagsterK8sUnrecoverableAPIError,
                urllib3.exceptions.HTTPError,
            ) as error:
                cause = getattr(error, "k8s_api_exception", error)
                if getattr(cause, "status", None) == _CONFLICT:
                    self._say(context.dagster_run, "The run has its Job already.")
                    return None
                # One that has just come back refuses everybody for a moment, until it knows the roles again.
                if isinstance(error, DagsterK8sUnrecoverableAPIError) and not away:
                    raise
                if time.monotonic() > deadline:
                    raise ConnectionError(
                        f"the API server of the cluster did not answer for {_PATIENCE_MINUTES} minutes: {cause}\n"
                        "  next: kubectl get nodes; then start the run again from the UI"
                    ) from error
                away = True
                self._say(context.dagster_run, f"The API server of the cluster does not answer; trying again: {cause}")
                time.sleep(2.0)

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """How a run's pod is, and when it has ended, why.

        A pod that was told to end counts as running until its time for that is over: Kubernetes counts its Job as
        failed at once, while the run's process still says why it ends, and must not have a second one beside it.
        """
        health: CheckRunHealthResult = super().check_run_worker_health(run)
        name, _ = self._job_of(run)
        # An API server that does not answer is unknown, too; then the text is the error's.
        is_gone = health.status is WorkerStatus.UNKNOWN and health.msg == f"Job {name} could not be found"
        if health.status is not WorkerStatus.FAILED and not is_gone:
            return health
        pods = self._pods_of(run)
        if any(_is_alive(pod) for pod in pods):
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its pod was told to end")
        if pods or not is_gone:
            return CheckRunHealthResult(WorkerStatus.FAILED, self._why_ended(run, pods))
        said = f"the run's job {name} is gone: it was deleted while the run was under way"
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, said)

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """What is known of a run's pod. Ends the Job of a run that has not started in time, or does not end.

        Run monitoring asks this only when it gives a run up, and leaves its pod as it is (dagster#16535): one that
        could not start would do so once its image is there.
        """
        if run.status is dg.DagsterRunStatus.STARTED:
            return None  # the health check has said it
        name, namespace = self._job_of(run)
        said = "\n".join(why_not_started(pod) for pod in self._pods_of(run)) or f"There is no pod of job {name}."
        if self._api_client.delete_job(name, namespace):
            said += f"\nJob {name} was removed, so that nothing of the run is left."
        return said

    def _why_ended(self, run: dg.DagsterRun, pods: Sequence[V1Pod]) -> str:
        if not pods:
            name, _ = self._job_of(run)
            return f"the pod of {name} is gone: it was deleted while the run was under way, by hand or with its node"
        pod = pods[-1]
        cause = f"the run's pod {pod.metadata.name} {how_it_ended(pod)}"
        return cause + self._log_end(pod) if _ended_by_itself(pod) else cause

    def _log_end(self, pod: V1Pod) -> str:
        """The last lines of a pod's log, empty where they cannot be had."""
        try:
            log = self._api_client.retrieve_pod_logs(
                pod.metadata.name, pod.metadata.namespace, pod.spec.containers[0].name, tail_lines=_LOG_LINES
            )
        except ApiException:
            return ""
        lines = [line[:_LOG_WIDTH] for line in log.splitlines()]
        return "".join(f"\n  {line}" for line in ["its log ends:", *lines]) if lines else ""

    def _pods(self) -> kubernetes.client.CoreV1Api:
        return self._api_client.core_api

    def _pods_of(self, run: dg.DagsterRun) -> Sequence[V1Pod]:
        """The pods of a run's Job, none where the API server does not answer."""
        name, namespace = self._job_of(run)
        try:
            found: Sequence[V1Pod] = self._api_client.get_pods_in_job(name, namespace)
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            logging.getLogger(__name__).warning("pods of job %s cannot be listed: %s", name, error)
            return []
        return sorted(found, key=lambda pod: pod.metadata.creation_timestamp)

    def _job_of(self, run: dg.DagsterRun) -> tuple[str, str]:
        """Name and namespace of a run's Job."""
        attempt = self._get_resume_attempt_number(run)
        name = get_job_name_from_run_id(run.run_id, attempt)  # type: ignore[no-untyped-call]
        return name, self.get_container_context_for_run(run).namespace or ""

    def _say(self, run: dg.DagsterRun, message: str) -> None:
        self._instance.report_engine_event(message, run, cls=type(self))


def how_it_ended(pod: V1Pod) -> str:
    """The end of a run's pod in words."""
    node = pod.spec.node_name
    for condition in pod.status.conditions or ():
        if condition.type == "DisruptionTarget" and condition.status == "True" and condition.reason in _DISRUPTED:
            return _DISRUPTED[condition.reason].format(node=node)
    if pod.status.reason == "Evicted":
        return f"was evicted from node {node}: {pod.status.message}"
    if pod.status.reason == "NodeLost":
        return f"is gone with its node {node}"
    ended = _terminated(pod)
    if ended is not None and ended.reason == "OOMKilled":
        limit = (pod.spec.containers[0].resources.limits or {}).get("memory")
        needed = f"its limit of {limit}" if limit else f"node {node} has"
        return f"was killed by the kernel: it needed more memory than {needed}; {_MEMORY_NEXT}"
    if pod.metadata.deletion_timestamp is not None:
        return f"was deleted while the run was under way (kubectl delete, or node {node} is gone)"
    if ended is None:
        return f"is {pod.status.phase or 'gone'} on node {node}: {pod.status.message or 'no reason is known'}"
    if ended.exit_code == _KILLED:
        return f"was killed (SIGKILL) on node {node}: by hand, or because the machine had no memory left"
    if ended.exit_code == _TERMINATED:
        return f"was told to end (SIGTERM) on node {node}: it was deleted, or the machine was stopped"
    reason = f" ({ended.message})" if ended.message else ""
    return f"ended with status {ended.exit_code} before the run did{reason}"


def why_not_started(pod: V1Pod) -> str:
    """Why a run's pod has not started its run, in words."""
    name = pod.metadata.name
    if _terminated(pod) is not None:
        return f"Pod {name} {how_it_ended(pod)}"
    for status in pod.status.container_statuses or ():
        if status.state.waiting is not None:
            said = status.state.waiting.message or "no more is known"
            return (
                f"Pod {name} waits on node {pod.spec.node_name}, {status.state.waiting.reason}: {said}{_next(status)}"
            )
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"Pod {name} fits on no node: {condition.message}"
    return f"Pod {name} is {pod.status.phase} on node {pod.spec.node_name}: next: kubectl describe pod {name}"


def _next(status: Any) -> str:
    if "Image" not in (status.state.waiting.reason or ""):
        return ""
    return f"\n  next: bring image {status.image} to the node, on K3s: k3s ctr images import; then start the run again"


def _is_alive(pod: V1Pod) -> bool:
    """Whether a pod has not ended, and, if it was deleted, still has time to: until its deletionTimestamp."""
    deadline = pod.metadata.deletion_timestamp
    return (
        _terminated(pod) is None
        and pod.status.phase == "Running"
        and (deadline is None or datetime.now(UTC) < deadline)
    )


def _ended_by_itself(pod: V1Pod) -> bool:
    ended = _terminated(pod)
    return ended is not None and ended.exit_code not in (_KILLED, _TERMINATED)


def _terminated(pod: V1Pod) -> Any:
    """How the container of a pod ended, or None where nobody knows."""
    for status in pod.status.container_statuses or ():
        if status.state.terminated is not None:
            return status.state.terminated
    return None
