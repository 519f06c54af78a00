"""The manifests of deploy/kubernetes, judged by a real API server: accepted, restricted, and with no right too many."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._config import process_config

from homelab_pipelines.kubernetes_launcher import KubernetesRunLauncher
from tests.cluster.conftest import MANIFESTS, NAMESPACE, THERE, kustomized
from tests.integration.house import REPOSITORY
from tests.peers.kubernetes.cluster import Cluster

pytestmark = pytest.mark.kubernetes
OVERLAYS = ("postgres-in-cluster", "postgres-external", "helm")
WORKLOADS = ("Deployment", "StatefulSet")
STAYS_AS_MADE = "PersistentVolumeClaim"
# The kinds of Traefik are the only ones here that Kubernetes does not have itself.
TRAEFIK = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: {plural}.traefik.io}}
spec:
  group: traefik.io
  scope: Namespaced
  names: {{kind: {kind}, plural: {plural}, singular: {singular}}}
  versions:
    - name: v1alpha1
      served: true
      storage: true
      schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
"""


@pytest.fixture(scope="module")
def judge(kubernetes: Cluster) -> Iterator[Cluster]:
    """The cluster, with the shipped namespace and the rights in it; no pod of the deployment runs."""
    left_out = (*WORKLOADS, STAYS_AS_MADE)
    objects = [each for each in kustomized(kubernetes, MANIFESTS / "base") if each["kind"] not in left_out]
    kubernetes.apply(yaml.safe_dump_all(objects))
    for kind in ("Middleware", "IngressRoute"):
        names = {"kind": kind, "plural": f"{kind.lower()}s", "singular": kind.lower()}
        kubernetes.apply(TRAEFIK.format(**names))
        kubernetes.wait_for("condition=Established", f"crd/{names['plural']}.traefik.io")
    yield kubernetes
    kubernetes.kubectl("delete", "namespace", NAMESPACE, "--timeout=60s", seconds=90)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_accepted_by_the_api_server_without_a_warning(judge: Cluster, overlay: str) -> None:
    done = judge.try_kubectl("apply", "--dry-run=server", f"--kustomize={MANIFESTS}/overlays/{overlay}")
    assert done.returncode == 0, done.stderr
    # What Pod Security would refuse of a Deployment's pods it says as a warning.
    assert done.stderr == ""
    assert "deployment.apps/homelab-code created (server dry run)" in done.stdout


@pytest.mark.parametrize("component", ["traefik-login", "nas-nfs"])
def test_component_over_an_overlay_is_accepted(judge: Cluster, component: str, tmp_path: Path) -> None:
    objects = with_component(judge, component, tmp_path)
    done = judge.try_kubectl("apply", "--dry-run=server", "--filename=-", stdin=yaml.safe_dump_all(objects))
    assert done.returncode == 0, done.stderr


def with_component(cluster: Cluster, component: str, folder: Path) -> list[dict[str, Any]]:
    """The objects of the overlay with PostgreSQL inside and a component, as an overlay of a user's own."""
    own = MANIFESTS.parent / "kubernetes"
    link = folder / "manifests"
    link.symlink_to(own)
    (folder / "own").mkdir()
    kustomization = {
        "resources": ["../manifests/overlays/postgres-in-cluster"],
        "components": [f"../manifests/components/{component}"],
        "namespace": NAMESPACE,
    }
    (folder / "own/kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return kustomized(cluster, folder / "own")


def test_overlay_of_the_guide_is_accepted_and_changes_what_it_says(judge: Cluster, tmp_path: Path) -> None:
    guide = (REPOSITORY / "docs/how-to/run-on-k3s.md").read_text()
    [written] = re.findall(r"cat > kustomization.yaml <<'END'\n(.*?)\n *END", guide, re.DOTALL)
    (tmp_path / "homelab_pipelines").symlink_to(REPOSITORY)
    own = tmp_path / "homelab-k3s"
    own.mkdir()
    (own / "kustomization.yaml").write_text(textwrap.dedent(written))
    (own / "homelab.yaml").write_text("homelab: test\n")
    objects = {(each["kind"], each["metadata"]["name"]): each for each in kustomized(judge, own)}
    assert objects["PersistentVolume", "homelab-backups"]["spec"]["nfs"]["server"] == "192.168.1.5"
    assert "dagster.home.example.org" in str(objects["IngressRoute", "homelab-webserver"])
    done = judge.try_kubectl("apply", "--dry-run=server", f"--kustomize={own}")
    assert done.returncode == 0, done.stderr


def test_the_only_route_to_the_webserver_passes_the_login(judge: Cluster, tmp_path: Path) -> None:
    objects = with_component(judge, "traefik-login", tmp_path)
    routes = [each for each in objects if each["kind"] in ("Ingress", "IngressRoute")]
    [route] = [rule for each in routes for rule in each["spec"]["routes"]]
    logins = {each["metadata"]["name"] for each in objects if each["kind"] == "Middleware"}
    assert {each["name"] for each in route["middlewares"]} == logins == {"homelab-login"}
    services = [each["spec"] for each in objects if each["kind"] == "Service"]
    assert {each.get("type", "ClusterIP") for each in services} == {"ClusterIP"}, "no port of a node is opened"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_admitted_to_the_restricted_namespace_and_a_bold_one_is_not(judge: Cluster, overlay: str) -> None:
    workloads = [each for each in kustomized(judge, MANIFESTS / "overlays" / overlay) if each["kind"] in WORKLOADS]
    assert "homelab-code" in {each["metadata"]["name"] for each in workloads}
    for workload in workloads:
        spec, name = workload["spec"]["template"]["spec"], workload["metadata"]["name"]
        claims = [each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", [])]
        spec["volumes"] += [{"name": each, "persistentVolumeClaim": {"claimName": each}} for each in claims]
        assert admitted(judge, name, spec) == "", name
        bold = {**spec, "securityContext": {"runAsUser": 0}}
        assert 'violates PodSecurity "restricted' in admitted(judge, name, bold)


def admitted(cluster: Cluster, name: str, spec: dict[str, Any]) -> str:
    """Why the API server does not admit a pod; empty when it does. Nothing is made."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}
    done = cluster.try_kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(pod))
    return done.stderr if done.returncode else ""


def test_every_container_has_limits_probes_and_a_read_only_root(judge: Cluster) -> None:
    for overlay in OVERLAYS:
        for workload in kustomized(judge, MANIFESTS / "overlays" / overlay):
            if workload["kind"] not in WORKLOADS:
                continue
            [container] = workload["spec"]["template"]["spec"]["containers"]
            assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"]
            assert container["livenessProbe"]
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            values = [each.get("value") for each in container.get("env", [])]
            assert all("password" not in str(value) or str(value).startswith("/run/secrets/") for value in values)


MAY = {
    "homelab-daemon": {
        ("create", "jobs.batch"), ("get", "jobs.batch"), ("list", "jobs.batch"), ("delete", "jobs.batch"),
        ("get", "jobs.batch/status"), ("get", "pods"), ("list", "pods"), ("delete", "pods"), ("get", "pods/log"),
        ("list", "events"),
    },
    "homelab-webserver": {("delete", "jobs.batch"), ("list", "pods"), ("delete", "pods")},
    "homelab-code": set(),
    "homelab-run": set(),
}  # fmt: skip
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
ASKED = (
    "jobs.batch", "jobs.batch/status", "pods", "pods/log", "pods/exec", "pods/attach", "pods/portforward",
    "pods/eviction", "pods/ephemeralcontainers", "events", "secrets", "configmaps", "services",
    "serviceaccounts", "serviceaccounts/token", "persistentvolumeclaims", "deployments.apps", "statefulsets.apps",
    "cronjobs.batch", "roles.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io",
    "networkpolicies.networking.k8s.io", "poddisruptionbudgets.policy", "ingresses.networking.k8s.io",
)  # fmt: skip


@pytest.mark.parametrize("account", MAY)
def test_account_may_do_what_it_needs_and_nothing_else(judge: Cluster, account: str) -> None:
    pairs = [(verb, resource) for resource in ASKED for verb in VERBS]
    answers = reviewed(judge, account, NAMESPACE, pairs)
    assert {pair for pair, allowed in answers.items() if allowed} == MAY[account]
    elsewhere = reviewed(judge, account, "default", pairs)
    assert not any(elsewhere.values()), "no right in another namespace"
    of_the_cluster = [(verb, each) for each in ("nodes", "namespaces", "persistentvolumes") for verb in VERBS]
    assert not any(reviewed(judge, account, "", of_the_cluster).values())


def reviewed(
    cluster: Cluster, account: str, namespace: str, pairs: list[tuple[str, str]]
) -> dict[tuple[str, str], bool]:
    """Whether the API server lets a service account do each of these, by access reviews."""
    reviews = []
    for verb, resource in pairs:
        name, _, subresource = resource.partition("/")
        kind, _, group = name.partition(".")
        attributes = {"verb": verb, "resource": kind, "group": group, "subresource": subresource}
        spec = {
            "user": f"system:serviceaccount:{NAMESPACE}:{account}",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"],
            "resourceAttributes": {**attributes, "namespace": namespace},
        }
        reviews.append({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec})
    said = cluster.kubectl("create", "--filename=-", "--output=json", stdin="\n---\n".join(map(json.dumps, reviews)))
    decoder, answers, at = json.JSONDecoder(), [], 0
    while at < len(said.rstrip()):
        found, end = decoder.raw_decode(said[at:].lstrip())
        answers += found["items"] if found["kind"] == "List" else [found]
        at += end + len(said[at:]) - len(said[at:].lstrip())
    assert len(answers) == len(pairs)
    return {pair: each["status"]["allowed"] for pair, each in zip(pairs, answers, strict=True)}


def test_rights_are_refused_by_the_api_server_itself(judge: Cluster) -> None:
    daemon, run = (judge.kubeconfig_of(NAMESPACE, name) for name in ("homelab-daemon", "homelab-run"))
    assert judge.try_kubectl("get", "pods", THERE, kubeconfig=daemon).returncode == 0
    refused = judge.try_kubectl("get", "secrets", THERE, kubeconfig=daemon)
    assert 'cannot list resource "secrets"' in refused.stderr
    assert 'cannot list resource "pods"' in judge.try_kubectl("get", "pods", THERE, kubeconfig=run).stderr


def test_values_of_dagsters_own_chart_are_the_settings_of_the_manifests() -> None:
    """The chart itself is in no registry that tests reach: what its values say in Dagster's own form is compared."""
    values = yaml.safe_load((MANIFESTS / "values.yaml").read_text())
    settings = yaml.safe_load((MANIFESTS / "base/dagster.yaml").read_text())
    assert values["runLauncher"]["config"]["customRunLauncher"] == settings["run_launcher"]
    assert values["computeLogManager"]["config"]["customComputeLogManager"] == settings["compute_logs"]
    for name, value in values["additionalInstanceConfig"].items():
        assert value == settings[name]
    daemon = values["dagsterDaemon"]
    assert snake(daemon["runMonitoring"]) == settings["run_monitoring"]
    assert snake(daemon["runRetries"]) == settings["run_retries"]
    assert snake(daemon["sensors"]) == settings["sensors"] and snake(daemon["schedules"]) == settings["schedules"]
    coordinator = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    assert snake(coordinator) == settings["run_coordinator"]["config"]
    assert values["postgresql"]["postgresqlScheme"] == settings["storage"]["postgres"]["postgres_db"]["scheme"]


def snake(values: dict[str, Any]) -> dict[str, Any]:
    """The keys as Dagster writes them."""
    return {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", key): value for key, value in values.items()}


def test_launcher_of_the_manifests_is_made_as_dagster_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = yaml.safe_load((MANIFESTS / "base/dagster.yaml").read_text())
    config = settings["run_launcher"]["config"]["launchers"]["kubernetes"]["config"]
    monkeypatch.setenv("HOMELAB_NAMESPACE", NAMESPACE)
    made = process_config(KubernetesRunLauncher.config_type(), config)
    assert made.success, made.errors
    assert made.value["job_namespace"] == NAMESPACE
