"""A service becomes the workload that fits how Compose restarts it, and shares a pod where it shares a network."""

from __future__ import annotations

import pytest

from tests.unit.migration.conftest import Converted
from tests.unit.migration.objects import container, fate, found, names, pod


@pytest.mark.parametrize(
    ("service", "kind"),
    [
        ("{image: 'nginx:1', restart: always}", "Deployment"),
        ("{image: 'nginx:1'}", "Deployment"),
        ("{image: 'busybox:1', restart: 'no'}", "Job"),
        ("{image: 'busybox:1', restart: 'on-failure:3'}", "Job"),
        ("{image: 'busybox:1', restart: 'no', expose: ['80']}", "Deployment"),
        ("{image: 'redis:8', deploy: {restart_policy: {condition: on-failure}}}", "Deployment"),
        ("{image: 'busybox:1', deploy: {restart_policy: {condition: on-failure}}}", "Job"),
        ("{image: 'busybox:1', deploy: {mode: global}}", "DaemonSet"),
        ("{image: 'postgres:17', restart: always, volumes: ['/var/lib/postgresql/data']}", "StatefulSet"),
        ("{image: 'redis:8', restart: always}", "Deployment"),
    ],
)
def test_kind_of_workload(converted: Converted, service: str, kind: str) -> None:
    assert found(converted(f"services: {{app: {service}}}"), kind, "app")


def test_job_keeps_the_count_of_on_failure(converted: Converted) -> None:
    job = found(converted("services: {app: {image: 'busybox:1', restart: 'on-failure:3'}}"), "Job", "app")
    assert job["spec"]["backoffLimit"] == 3
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure"


def test_no_replica_stays_none(converted: Converted) -> None:
    conversion = converted("services: {app: {image: 'nginx:1', deploy: {replicas: 0}}}")
    assert found(conversion, "Deployment", "app")["spec"]["replicas"] == 0


def test_services_that_share_a_network_share_a_pod(converted: Converted) -> None:
    conversion = converted("""
        services:
          vpn: {image: 'gluetun:3', container_name: tunnel, ports: ['8080:8080'], cap_add: [NET_ADMIN]}
          torrent: {image: 'qbittorrent:5', network_mode: 'service:vpn', depends_on: [vpn]}
          index: {image: 'prowlarr:1', network_mode: 'container:tunnel'}
    """)
    assert names(conversion, "Deployment") == {"vpn"}
    assert [each["name"] for each in pod(conversion, "vpn")["containers"]] == ["vpn", "index", "torrent"]
    assert "ports" not in container(conversion, "torrent")


def test_network_of_a_container_elsewhere_blocks(converted: Converted) -> None:
    conversion = converted("services: {app: {image: 'nginx:1', network_mode: 'container:other'}}")
    assert fate(conversion, "services", "app", "network_mode") == "blocked"


def test_host_network(converted: Converted) -> None:
    spec = pod(converted("services: {app: {image: 'nginx:1', network_mode: host}}"), "app")
    assert (spec["hostNetwork"], spec["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")


def test_two_names_that_become_one_stay_two_workloads(converted: Converted) -> None:
    conversion = converted("services: {my_app: {image: 'nginx:1', expose: ['80']}, my-app: {image: 'httpd:2'}}")
    assert len(names(conversion, "Deployment")) == 2
    selectors = {str(each["spec"]["selector"]) for each in conversion.objects if each["kind"] == "Service"}
    assert len(selectors) == len(names(conversion, "Service"))
