"""Health checks become probes that do what the check does, and restart nothing that Docker would not."""

from __future__ import annotations

import pytest

from homelab_pipelines.migration.complete.probes import http_action, probe_action, probes
from tests.unit.migration.conftest import Converted
from tests.unit.migration.objects import container, fate

CHECK = ("services", "app", "healthcheck")


@pytest.mark.parametrize(
    ("line", "path", "port"),
    [
        ("curl -f http://localhost:8080/health || exit 1", "/health", 8080),
        ("curl -fsS http://127.0.0.1/ping?full=1", "/ping?full=1", 80),
        ("wget -q --spider http://localhost:3000", "/", 3000),
        ("wget --no-verbose --tries=1 --spider http://localhost:80/ > /dev/null 2>&1 || exit 1", "/", 80),
        ("curl -fk https://localhost:8443/x", "/x", 8443),
    ],
)
def test_request_to_the_container_itself_is_an_http_probe(line: str, path: str, port: int) -> None:
    action = http_action(line)
    assert action is not None
    assert (action["httpGet"]["path"], action["httpGet"]["port"]) == (path, port)
    assert ("scheme" in action["httpGet"]) is line.startswith("curl -fk")


@pytest.mark.parametrize(
    "line",
    [
        "curl http://localhost/health",  # succeeds with every answer
        "curl -f http://db:8080/health",
        "curl -f http://localhost/health | grep ok",
        "curl -f -H 'Authorization: x' http://localhost/",
        "curl -f http://localhost:$PORT/",
        "curl -f https://localhost/",  # checks the certificate, which a probe does not
        "pg_isready -U me",
        "curl -f 'http://localhost",
    ],
)
def test_anything_else_is_run(line: str) -> None:
    assert http_action(line) is None
    assert probe_action(["CMD-SHELL", line]) == {"exec": {"command": ["/bin/sh", "-c", line]}}


def test_command_without_a_shell_has_none() -> None:
    assert probe_action(["CMD", "pg_isready", "-U", "me"]) == {"exec": {"command": ["pg_isready", "-U", "me"]}}


def test_times_are_the_checks_and_liveness_is_laxer() -> None:
    check = {"interval": "10s", "timeout": "3s", "retries": 4, "start_period": "10m0s"}
    made = probes({"exec": {"command": ["true"]}}, check)
    ready, start, live = made["readinessProbe"], made["startupProbe"], made["livenessProbe"]
    assert (ready["periodSeconds"], ready["timeoutSeconds"], ready["failureThreshold"]) == (10, 3, 4)
    assert start["periodSeconds"] * start["failureThreshold"] >= 600
    assert live["failureThreshold"] * live["periodSeconds"] >= 300 > ready["failureThreshold"] * 10


def test_check_is_carried_with_its_dollars(converted: Converted) -> None:
    conversion = converted("""
        services:
          app: {image: 'postgres:17', healthcheck: {test: 'pg_isready -U $$POSTGRES_USER', interval: 5s}}
    """)
    command = ["/bin/sh", "-c", "pg_isready -U $POSTGRES_USER"]
    assert container(conversion, "app")["readinessProbe"]["exec"]["command"] == command
    assert fate(conversion, *CHECK, "interval") == "carried"


@pytest.mark.parametrize("check", ["{disable: true}", "{test: [NONE]}", "{interval: 5s}"])
def test_check_without_a_test_makes_no_probe(converted: Converted, check: str) -> None:
    conversion = converted(f"services: {{app: {{image: 'nginx:1', healthcheck: {check}}}}}")
    assert "readinessProbe" not in container(conversion, "app")
    assert "healthcheck" in str(conversion.kompose.withheld) or "disable" in check, "Kompose would panic on it"


def test_password_in_a_check_blocks(converted: Converted) -> None:
    conversion = converted("""
        services: {app: {image: 'mariadb:11', healthcheck: {test: [CMD, mysqladmin, --password=hunter2x, ping]}}}
    """)
    assert fate(conversion, *CHECK, "test", 0) == "blocked"
    assert "hunter2x" not in str(conversion.objects)
