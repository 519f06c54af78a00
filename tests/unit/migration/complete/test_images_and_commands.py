"""Images, and what containers run: `$` stays, secrets do not stand in arguments."""

from __future__ import annotations

import pytest

from homelab_pipelines.migration.complete.commands import escaped
from tests.unit.migration.conftest import Converted
from tests.unit.migration.objects import container, fate, pod


@pytest.mark.parametrize(("image", "noted"), [("nginx", True), ("nginx:latest", True), ("nginx:1.29", False)])
def test_image_without_a_fixed_tag_is_flagged(converted: Converted, image: str, noted: bool) -> None:
    conversion = converted(f"services: {{app: {{image: '{image}'}}}}")
    entry = conversion.ledger.fate(("services", "app", "image"))
    assert entry is not None
    assert ("no fixed tag" in entry.note) is noted
    assert container(conversion, "app")["image"] == image


def test_image_that_is_built_here_blocks(converted: Converted) -> None:
    conversion = converted("services: {app: {build: ., pull_policy: build}}", Dockerfile="FROM scratch")
    assert fate(conversion, "services", "app", "build", "context") == "blocked"


def test_pull_policy_and_platform(converted: Converted) -> None:
    conversion = converted("services: {app: {image: 'nginx:1', pull_policy: always, platform: linux/arm64}}")
    assert container(conversion, "app")["imagePullPolicy"] == "Always"
    assert pod(conversion, "app")["nodeSelector"] == {"kubernetes.io/arch": "arm64"}


@pytest.mark.parametrize(
    ("text", "written"),
    [("plain", "plain"), ("a$b", "a$b"), ("$(date)", "$$(date)"), ("a$$b", "a$$$b"), ("${HOME}", "${HOME}")],
)
def test_dollar_is_escaped_only_where_kubernetes_expands(text: str, written: str) -> None:
    assert escaped(text) == written


def test_dollar_of_a_command_is_what_compose_makes_of_it(converted: Converted) -> None:
    conversion = converted("""
        services:
          app: {image: 'busybox:1', command: [sh, -c, 'echo $$HOME $$(date)'], entrypoint: /start --now}
    """)
    made = container(conversion, "app")
    assert made["args"] == ["sh", "-c", "echo $HOME $$(date)"]
    assert made["command"] == ["/start", "--now"]


def test_secret_of_a_command_comes_from_a_secret(converted: Converted) -> None:
    conversion = converted("services: {app: {image: 'redis:8', command: redis-server --requirepass hunter2}}")
    made = container(conversion, "app")
    assert made["args"] == ["redis-server", "--requirepass", "$(ARGS_2)"]
    assert conversion.secrets == {"app-arguments": {"ARGS_2": b"hunter2"}}
    assert made["env"][0]["valueFrom"] == {"secretKeyRef": {"name": "app-arguments", "key": "ARGS_2"}}


def test_empty_entrypoint_blocks(converted: Converted) -> None:
    conversion = converted("services: {app: {image: 'busybox:1', entrypoint: [], command: [ls]}}")
    assert fate(conversion, "services", "app", "entrypoint") == "blocked"
