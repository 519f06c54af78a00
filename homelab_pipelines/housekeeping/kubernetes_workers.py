"""Jobs of runs in a Kubernetes namespace, by the labels that the run launcher gives them; their pods go with them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import urllib3.exceptions
from kubernetes import client, config
from kubernetes.client import ApiException

from homelab_pipelines.housekeeping.errors import HousekeepingError
from homelab_pipelines.housekeeping.run_workers import Worker
from homelab_pipelines.socket_proxy import DEPLOYMENT_LABEL

RUN_LABEL = "dagster/run-id"
"""dagster_k8s puts it on every Job of a run."""
_NEXT = (
    "give the runs' service account a Role with list and delete on jobs, or let Kubernetes tidy up by itself:"
    " ttl_seconds_after_finished in job_spec_config of the launcher"
)


class KubernetesWorkers:
    """The Jobs of a deployment in the cluster that this process is in, or in that of a kubeconfig."""

    def __init__(self, deployment: str, namespace: str, in_cluster: bool, kubeconfig: str | None = None) -> None:
        self._deployment = deployment
        self._namespace = namespace
        self._in_cluster = in_cluster
        self._kubeconfig = kubeconfig

    def workers(self) -> list[Worker]:
        """As Backend."""
        selector = f"{DEPLOYMENT_LABEL}={self._deployment},{RUN_LABEL}"
        what = f"listing the jobs of runs in namespace {self._namespace}"
        jobs = self._ask(what, lambda api: api.list_namespaced_job(self._namespace, label_selector=selector))
        return [_worker(job) for job in jobs.items] if jobs is not None else []

    def remove(self, worker: Worker) -> None:
        """As Backend; the pod of the Job, too."""
        self._ask(
            f"removing {worker}",
            lambda api: api.delete_namespaced_job(worker.name, self._namespace, propagation_policy="Background"),
        )

    def _ask(self, what: str, call: Callable[[client.BatchV1Api], Any]) -> Any:
        try:
            return call(self._api())
        except config.ConfigException as error:
            raise HousekeepingError(what, f"this process knows no cluster: {error}", _NEXT) from error
        except ApiException as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise HousekeepingError(what, f"the API server answers {error.status} {error.reason}", _NEXT) from error
        except urllib3.exceptions.HTTPError as error:
            raise HousekeepingError(what, f"the API server does not answer: {error}", "kubectl get nodes") from error

    def _api(self) -> client.BatchV1Api:
        settings = client.Configuration()
        if self._in_cluster:
            config.load_incluster_config(client_configuration=settings)
        else:
            config.load_kube_config(self._kubeconfig, client_configuration=settings)
        return client.BatchV1Api(client.ApiClient(settings))


def _worker(job: Any) -> Worker:
    conditions = {each.type: each for each in job.status.conditions or [] if each.status == "True"}
    condition = conditions.get("Complete") or conditions.get("Failed")
    ended = condition and condition.last_transition_time
    return Worker(
        backend="job",
        id=str(job.metadata.uid),
        name=str(job.metadata.name),
        run_id=str(job.metadata.labels[RUN_LABEL]),
        state=condition.type.lower() if condition else "running",
        ended=ended.astimezone(UTC) if isinstance(ended, datetime) else None,
    )
