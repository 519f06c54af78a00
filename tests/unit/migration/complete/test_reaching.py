"""Services, networks, routes and waits: who can dial whom, and when."""

from __future__ import annotations

from typing import Any

import pytest

from homelab_pipelines.migration.complete.traefik import modern_rule
from homelab_pipelines.migration.convert import Conversion
from tests.unit.migration.conftest import Converted
from tests.unit.migration.objects import fate, found, names, pod


def ports(conversion: Conversion, name: str) -> list[tuple[int, int]]:
    return [(each["port"], each["targetPort"]) for each in found(conversion, "Service", name)["spec"].get("ports", ())]


def test_service_has_the_containers_port_and_the_published_one_is_a_load_balancers(converted: Converted) -> None:
    conversion = converted("services: {web: {image: 'nginx:1', ports: ['8080:80', '5353:53/udp']}}")
    assert ports(conversion, "web") == [(53, 53), (80, 80)]
    published = found(conversion, "Service", "web-published")["spec"]
    assert published["type"] == "LoadBalancer"
    assert ports(conversion, "web-published") == [(8080, 80), (5353, 53)]


def test_port_of_the_host_alone_is_not_published(converted: Converted) -> None:
    conversion = converted("services: {web: {image: 'nginx:1', ports: ['127.0.0.1:8080:80']}}")
    assert names(conversion, "Service") == {"web"}
    assert "outside-web" not in names(conversion, "NetworkPolicy")
    assert fate(conversion, "services", "web", "ports", 0, "host_ip") == "replaced"


def test_port_that_is_published_on_two_addresses_for_two_targets_blocks(converted: Converted) -> None:
    conversion = converted("services: {a: {image: 'c:1', ports: ['10.0.0.1:53:53', '10.0.0.2:53:5353']}}")
    assert fate(conversion, "services", "a", "ports", 1, "published") == "blocked"
    assert ports(conversion, "a-published") == [(53, 53)]


def test_every_name_that_a_peer_dials_has_a_service(converted: Converted) -> None:
    conversion = converted("""
        services:
          db: {image: 'postgres:17', container_name: app_postgres, hostname: pg}
          cache: {image: 'valkey:9', networks: {default: {aliases: [redis.local]}}}
          search: {image: 'custom:1'}
          quiet: {image: 'custom:1', container_name: nobody}
          app:
            image: custom:1
            command: [--search, 'http://search:7700/']
            environment: {A: 'postgres://app_postgres:5432/x', B: 'pg', C: 'redis.local:6379'}
    """)
    assert names(conversion, "Service") == {"db", "app-postgres", "pg", "cache", "redis-local", "search"}
    assert ports(conversion, "search") == [(7700, 7700)]
    assert ports(conversion, "db") == ports(conversion, "app-postgres") == [(5432, 5432)]
    assert found(conversion, "Service", "db")["spec"]["selector"] == {"homelab-pipelines.service/db": "true"}


def test_name_in_a_mounted_file_is_dialled_too(converted: Converted) -> None:
    conversion = converted(
        """
        services:
          proxy: {image: 'nginx:1', volumes: ['./nginx.conf:/etc/nginx.conf:ro']}
          backend: {image: 'custom:1'}
        """,
        nginx_DOT_conf="proxy_pass http://backend:3000;\n",
    )
    assert ports(conversion, "backend") == [(3000, 3000)]


def test_dialled_service_without_a_known_port_is_headless(converted: Converted) -> None:
    conversion = converted("services: {a: {image: 'custom:1'}, b: {image: 'custom:1', environment: {PEER_HOST: a}}}")
    spec = found(conversion, "Service", "a")["spec"]
    assert (spec["clusterIP"], "ports" in spec) == ("None", False)


def test_name_of_two_services_that_peers_dial_blocks(converted: Converted) -> None:
    conversion = converted("""
        services:
          one: {image: 'nginx:1', networks: {default: {aliases: [api]}}}
          two: {image: 'nginx:1', networks: {default: {aliases: [api]}}}
          app: {image: 'nginx:1', environment: {API_URL: 'http://api/'}}
    """)
    assert fate(conversion, "services", "two", "networks", "default", "aliases", 0) == "blocked"


def policy(conversion: Conversion, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = found(conversion, "NetworkPolicy", name)["spec"]
    return spec


def test_networks_become_policies(converted: Converted) -> None:
    conversion = converted("""
        services:
          web: {image: 'nginx:1', networks: [front, back], ports: ['8080:80']}
          db: {image: 'postgres:17', networks: [back]}
          agent: {image: 'custom:1', network_mode: bridge}
        networks: {front: {external: true, name: proxy}, back: {internal: true}}
    """)
    assert policy(conversion, "default-deny") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert len(policy(conversion, "network-back")["egress"]) == 1, "no way out"
    assert len(policy(conversion, "network-front")["egress"]) == 2
    (peer,) = policy(conversion, "network-front")["ingress"][0]["from"]
    assert peer["namespaceSelector"] == {}
    assert peer["podSelector"]["matchLabels"] == {"homelab-pipelines.network/proxy": "true"}
    labels = found(conversion, "StatefulSet" if "db" in names(conversion, "StatefulSet") else "Deployment", "db")
    assert "homelab-pipelines.network/back" in labels["spec"]["template"]["metadata"]["labels"]
    assert policy(conversion, "outside-web")["ingress"] == [{"ports": [{"port": 80, "protocol": "TCP"}]}]
    assert policy(conversion, "network-bridge")["podSelector"]["matchLabels"]


def test_waits(converted: Converted) -> None:
    conversion = converted("""
        services:
          db: {image: 'postgres:17', healthcheck: {test: pg_isready}}
          migrate: {image: 'custom:1', depends_on: {db: {condition: service_healthy}}}
          app:
            image: nginx:1
            depends_on: {migrate: {condition: service_completed_successfully}, db: {condition: service_started}}
    """)
    assert found(conversion, "Job", "migrate")
    (wait,) = pod(conversion, "migrate")["initContainers"]
    assert "nc -z -w 2 db 5432" in wait["command"][2]
    (wait,) = pod(conversion, "app")["initContainers"]
    assert wait["command"][:4] == ["kubectl", "wait", "--for=condition=complete", "job/migrate"]
    assert pod(conversion, "app")["serviceAccountName"] == "job-waiter"
    assert pod(conversion, "db")["automountServiceAccountToken"] is False
    order = [each["metadata"]["name"] for each in conversion.objects if each["kind"] in ("Deployment", "Job")]
    assert order == ["db", "migrate", "app"]


@pytest.mark.parametrize(
    ("second", "third"),
    [
        ("Host(`a.b`)", "Host(`a.b`)"),
        ("Host(`a.b`, `c.d`) && PathPrefix(`/x`)", "(Host(`a.b`) || Host(`c.d`)) && PathPrefix(`/x`)"),
        ("Headers(`X-A`, `b`)", "Header(`X-A`, `b`)"),
    ],
)
def test_rules_of_traefik_2_are_written_as_traefik_3_reads_them(second: str, third: str) -> None:
    assert modern_rule(second) == third


def test_traefik_labels_become_its_resources(converted: Converted) -> None:
    conversion = converted("""
        services:
          auth: {image: 'authelia:4', expose: ['9091']}
          web:
            image: nginx:1
            labels:
              traefik.enable: 'true'
              traefik.docker.network: proxy
              traefik.http.routers.web.rule: Host(`web.example.com`)
              traefik.http.routers.web.entrypoints: websecure
              traefik.http.routers.web.tls.certresolver: letsencrypt
              traefik.http.routers.web.middlewares: sec,login@docker,pw
              traefik.http.services.web.loadbalancer.server.port: '8080'
              traefik.http.middlewares.sec.headers.stsSeconds: '31536000'
              traefik.http.middlewares.sec.headers.customrequestheaders.X-Forwarded-Proto: https
              traefik.http.middlewares.login.forwardauth.address: http://auth:9091/verify
              traefik.http.middlewares.pw.basicauth.users: me:$$apr1$$x$$y
    """)
    spec = found(conversion, "IngressRoute", "router-web")["spec"]
    (route,) = spec["routes"]
    assert route["match"] == "Host(`web.example.com`)"
    assert route["services"] == [{"name": "web", "port": 8080}]
    assert (spec["entryPoints"], spec["tls"]) == (["websecure"], {"certResolver": "letsencrypt"})
    assert [each["name"] for each in route["middlewares"]] == ["middleware-sec", "middleware-login", "middleware-pw"]
    headers = found(conversion, "Middleware", "middleware-sec")["spec"]["headers"]
    assert headers == {"stsSeconds": 31536000, "customRequestHeaders": {"X-Forwarded-Proto": "https"}}
    login = found(conversion, "Middleware", "middleware-login")["spec"]["forwardAuth"]
    assert login == {"address": "http://auth.stack.svc:9091/verify"}, "Traefik dials from another namespace"
    assert conversion.secrets == {"middleware-pw-users": {"users": b"me:$apr1$x$y"}}
    assert ports(conversion, "web") == [(8080, 8080)]
    assert policy(conversion, "outside-auth")["ingress"][0]["ports"] == [{"port": 9091, "protocol": "TCP"}]
    assert fate(conversion, "services", "web", "labels", "traefik.docker.network") == "replaced"


@pytest.mark.parametrize(
    ("label", "ends"),
    [
        ("traefik.frontend.rule: 'Host:a.b'", "blocked"),
        ("traefik.port: '80'", "dropped"),
        ("traefik.http.routers.a.rule: Host(`a.b`)", "blocked"),
        ("traefik.tcp.routers.a.rule: HostSNI(`*`)", "blocked"),
        ("traefik.http.middlewares.a.nonsense.x: '1'", "blocked"),
        ("com.centurylinklabs.watchtower.enable: 'true'", "dropped"),
        ("org.example.team: home", "carried"),
    ],
)
def test_label_ends_in_its_class(converted: Converted, label: str, ends: str) -> None:
    conversion = converted(f"""
        services:
          app:
            image: custom:1
            labels:
              {label}
    """)
    assert fate(conversion, "services", "app", "labels", label.partition(": ")[0]) == ends
