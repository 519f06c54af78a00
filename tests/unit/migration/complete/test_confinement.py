"""What containers may, get and where they run; the level of the namespace that fits."""

from __future__ import annotations

from typing import Any

import pytest

from homelab_pipelines.migration.complete.namespace import LEVEL, REASON
from tests.unit.migration.conftest import Converted
from tests.unit.migration.objects import container, fate, found, pod


@pytest.mark.parametrize(
    ("text", "context"),
    [
        ("user: '1000:100'", {"runAsUser": 1000, "runAsGroup": 100}),
        ("user: root", {"runAsUser": 0}),
        ("cap_drop: [ALL], cap_add: [CAP_NET_ADMIN]", {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}),
        ("privileged: true", {"privileged": True}),
        ("read_only: true", {"readOnlyRootFilesystem": True}),
        ("security_opt: ['no-new-privileges:true']", {"allowPrivilegeEscalation": False}),
        ("security_opt: ['seccomp=unconfined']", {"seccompProfile": {"type": "Unconfined"}}),
        ("security_opt: ['label=disable']", {"seLinuxOptions": {"type": "spc_t"}}),
    ],
)
def test_security_context(converted: Converted, text: str, context: dict[str, Any]) -> None:
    conversion = converted(f"services: {{app: {{image: 'nginx:1', {text}}}}}")
    assert container(conversion, "app")["securityContext"] == context


def test_user_by_name_and_group_by_name_block(converted: Converted) -> None:
    conversion = converted("services: {app: {image: 'nginx:1', user: www-data, group_add: [docker, '44']}}")
    assert fate(conversion, "services", "app", "user") == "blocked"
    assert fate(conversion, "services", "app", "group_add", 0) == "blocked"
    assert pod(conversion, "app")["securityContext"]["supplementalGroups"] == [44]


def test_volumes_belong_to_the_group_of_the_user_or_of_pgid(converted: Converted) -> None:
    by_user = converted("services: {app: {image: 'nginx:1', user: '1000', volumes: ['/srv/a:/a']}}")
    assert pod(by_user, "app")["securityContext"] == {"fsGroup": 1000}
    text = "services: {app: {image: 'nginx:1', environment: {PUID: '1000', PGID: '100'}, volumes: ['/srv/a:/a']}}"
    assert pod(converted(text), "app")["securityContext"] == {"fsGroup": 100}


@pytest.mark.parametrize(
    ("text", "level", "reason"),
    [
        ("user: '1'", "baseline", "own user"),
        ("network_mode: host", "privileged", "hostNetwork"),
        ("privileged: true", "privileged", "app is privileged"),
        ("cap_add: [NET_ADMIN]", "privileged", "NET_ADMIN"),
        ("volumes: ['/proc:/host:ro']", "privileged", "/proc"),
        ("sysctls: {net.core.somaxconn: 1024}", "privileged", "somaxconn"),
        ("sysctls: {net.ipv4.ip_unprivileged_port_start: 0}", "baseline", "own user"),
    ],
)
def test_namespace_has_the_level_that_the_pods_need(converted: Converted, text: str, level: str, reason: str) -> None:
    metadata = found(converted(f"services: {{app: {{image: 'nginx:1', {text}}}}}"), "Namespace", "stack")["metadata"]
    assert metadata["labels"][f"{LEVEL}enforce"] == level
    assert reason in metadata["annotations"][REASON]


def test_unsafe_sysctl_is_a_requirement_of_the_cluster(converted: Converted) -> None:
    conversion = converted("services: {app: {image: 'nginx:1', sysctls: {net.core.somaxconn: 1024}}}")
    assert any("net.core.somaxconn" in each for each in conversion.requirements)


def test_resources(converted: Converted) -> None:
    conversion = converted("""
        services:
          app:
            image: nginx:1
            deploy: {resources: {limits: {cpus: '0.5', memory: 512M}, reservations: {memory: 128M}}}
          old: {image: 'nginx:1', mem_limit: 1g, cpus: 2}
          none: {image: 'nginx:1', pids_limit: 100}
          db: {image: 'postgres:17'}
    """)
    limits = container(conversion, "app")["resources"]
    assert limits == {"limits": {"cpu": "500m", "memory": "512Mi"}, "requests": {"memory": "128Mi"}}
    assert container(conversion, "old")["resources"] == {"limits": {"memory": "1Gi", "cpu": "2"}}
    assert container(conversion, "none")["resources"]["requests"]["memory"] == "64Mi"
    assert container(conversion, "db")["resources"]["requests"]["memory"] == "256Mi"
    assert fate(conversion, "services", "none", "pids_limit") == "dropped"


def test_request_never_exceeds_its_limit(converted: Converted) -> None:
    conversion = converted("services: {app: {image: 'nginx:1', cpu_shares: 1024, cpus: 0.5}}")
    assert container(conversion, "app")["resources"]["requests"]["cpu"] == "500m"


def test_privileged_container_that_may_not_gain_privileges_blocks(converted: Converted) -> None:
    text = "services: {app: {image: 'nginx:1', privileged: true, security_opt: ['no-new-privileges:true']}}"
    assert fate(converted(text), "services", "app", "security_opt", 0) == "blocked"


def test_devices(converted: Converted) -> None:
    conversion = converted("""
        services:
          video: {image: 'jellyfin:10', devices: ['/dev/dri:/dev/dri']}
          zigbee: {image: 'zigbee2mqtt:2', devices: ['/dev/ttyUSB0:/dev/ttyACM0']}
          llm:
            image: ollama:1
            deploy: {resources: {reservations: {devices: [{driver: nvidia, count: 2, capabilities: [gpu]}]}}}
    """)
    assert container(conversion, "video")["resources"]["limits"] == {"gpu.intel.com/i915": "1"}
    assert container(conversion, "llm")["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    spec = pod(conversion, "zigbee")
    assert spec["nodeSelector"] == {"homelab-pipelines.device/ttyusb0": "true"}
    assert spec["volumes"][0]["hostPath"] == {"path": "/dev/ttyUSB0", "type": "CharDevice"}
    assert container(conversion, "zigbee")["volumeMounts"][0]["mountPath"] == "/dev/ttyACM0"
    assert len(conversion.requirements) == 3


def test_names_and_addresses_that_a_pod_knows(converted: Converted) -> None:
    conversion = converted("""
        services:
          app:
            image: nginx:1
            hostname: My_App.lan
            extra_hosts: ['nas:10.0.0.5', 'gateway:host-gateway']
            dns: [9.9.9.9]
            dns_search: [lan]
            stop_grace_period: 1m30s
            init: true
    """)
    spec = pod(conversion, "app")
    assert spec["hostname"] == "my-app"
    assert spec["hostAliases"] == [{"ip": "10.0.0.5", "hostnames": ["nas"]}]
    assert spec["dnsConfig"] == {"nameservers": ["9.9.9.9"], "searches": ["lan"]}
    assert (spec["terminationGracePeriodSeconds"], spec["shareProcessNamespace"]) == (90, True)
    entries = conversion.stack.model["services"]["app"]["extra_hosts"]
    gateway = next(index for index, entry in enumerate(entries) if "host-gateway" in entry)
    assert fate(conversion, "services", "app", "extra_hosts", gateway) == "blocked"


def test_init_beside_the_nodes_processes_shares_none(converted: Converted) -> None:
    spec = pod(converted("services: {app: {image: 'nginx:1', init: true, pid: host}}"), "app")
    assert spec["hostPID"] is True
    assert "shareProcessNamespace" not in spec


def test_placement_is_komposes(converted: Converted) -> None:
    conversion = converted("""
        services:
          app:
            image: nginx:1
            deploy:
              placement:
                constraints: ['node.labels.disk == ssd', 'node.role == manager', 'node.platform.os == linux']
                preferences: [{spread: node.labels.zone}]
    """)
    terms = pod(conversion, "app")["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms["nodeSelectorTerms"][0]["matchExpressions"] == [{"key": "disk", "operator": "In", "values": ["ssd"]}]
    where = ("services", "app", "deploy", "placement", "constraints")
    assert [fate(conversion, *where, index) for index in range(3)] == ["carried", "dropped", "blocked"]
    assert pod(conversion, "app")["topologySpreadConstraints"][0]["topologyKey"] == "zone"


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("logging: {driver: json-file}", "dropped"),
        ("ulimits: {nofile: 65535}", "dropped"),
        ("mac_address: '02:42:ac:11:00:02'", "dropped"),
        ("userns_mode: host", "carried"),
        ("pid: host", "carried"),
        ("ipc: host", "carried"),
        ("external_links: [other]", "blocked"),
        ("stop_signal: SIGINT", "dropped"),
        ("post_start: [{command: [touch, /ready]}]", "carried"),
        ("device_cgroup_rules: ['c 1:3 mr']", "blocked"),
    ],
)
def test_key_ends_in_its_class(converted: Converted, text: str, ends: str) -> None:
    conversion = converted(f"services: {{app: {{image: 'nginx:1', {text}}}}}")
    assert fate(conversion, "services", "app", text.partition(":")[0]) == ends
