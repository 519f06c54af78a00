"""Where a stack keeps data and what stands in a cluster's way, as far as its Compose files tell."""

from __future__ import annotations

import pytest

from homelab_pipelines.migration.digest import stack_digest
from homelab_pipelines.migration.reading import read_stack
from homelab_pipelines.migration.state import blockers, data_kept, image_name
from tests.unit.migration.conftest import Project


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ("image: postgres:17", "postgres is a database"),
        ("image: ghcr.io/immich-app/postgres:14@sha256:abc", "postgres is a database"),
        ("image: app, volumes: ['files:/data']", "volume 'files' at '/data'"),
        ("image: app, volumes: [/data]", "a volume without a name at '/data'"),
        ("image: app, volumes: ['./photos:/photos']", "bind mount at '/photos'"),
    ],
)
def test_data_is_seen(service: str, message: str, project: Project) -> None:
    stack = read_stack(project(f"services: {{a: {{{service}}}}}\nvolumes: {{files: }}"))
    [reason] = data_kept(stack)
    assert (reason.service, reason.message, reason.place.line) == ("a", message, 1)


@pytest.mark.parametrize(
    "service",
    [
        "image: nginx",
        "image: postgres-exporter",
        "image: app, volumes: ['./app.conf:/etc/app.conf']",
        "image: app, volumes: ['./web:/usr/share/nginx/html:ro']",
        "image: app, volumes: ['/etc/localtime:/etc/localtime', '/dev/dri:/dev/dri']",
        "image: app, volumes: ['/var/run/docker.sock:/var/run/docker.sock']",
        "image: app, tmpfs: /scratch",
        "image: app, volumes: [{type: tmpfs, target: /x}]",
    ],
)
def test_what_keeps_nothing_is_stateless(service: str, project: Project) -> None:
    assert data_kept(read_stack(project(f"services: {{a: {{{service}}}}}"))) == ()


@pytest.mark.parametrize(
    ("service", "part"),
    [
        ("volumes: ['/var/run/docker.sock:/var/run/docker.sock:ro']", "engine's socket"),
        ("volumes: ['/run/user/1000/podman/podman.sock:/s']", "engine's socket"),
        ("devices: [/dev/ttyUSB0]", "device of the host"),
        ("network_mode: host", "host's own network"),
        ("network_mode: 'service:b'", "network of another container"),
        ("pid: host", "host's processes"),
        ("ipc: host", "host's shared memory"),
        ("privileged: true", "privileged"),
    ],
)
def test_blocker_is_seen_where_it_is_written(service: str, part: str, project: Project) -> None:
    stack = read_stack(project(f"services:\n  b: {{image: x}}\n  a: {{image: x, {service}}}"))
    [reason] = blockers(stack)
    assert part in reason.message
    assert (reason.service, reason.place.line) == ("a", 3)


def test_image_that_is_only_built_is_a_blocker_and_one_with_a_name_is_none(project: Project) -> None:
    stack = read_stack(
        project("services: {a: {build: .}, b: {build: ., image: registry.example.org/b:1}, c: {image: x}}")
    )
    assert [reason.service for reason in blockers(stack)] == ["a"]


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("postgres", "postgres"),
        ("localhost:5000/a/redis:7.2", "redis"),
        ("mariadb@sha256:0123", "mariadb"),
        ("", ""),
    ],
)
def test_image_name_is_its_last_part(image: str, name: str) -> None:
    assert image_name(image) == name


def test_digest_changes_with_the_model_and_with_env_files(project: Project) -> None:
    folder = project("services: {a: {image: 'x:${TAG}', env_file: [a.env]}}", a_DOT_env="A=1", _DOT_env="TAG=1")
    first = stack_digest(read_stack(folder))
    assert stack_digest(read_stack(folder)) == first
    (folder / "a.env").write_text("A=2")
    second = stack_digest(read_stack(folder))
    assert second != first, "what an env file says is no part of the model, and counts"
    (folder / ".env").write_text("TAG=2")
    assert stack_digest(read_stack(folder)) != second


def test_digest_is_the_same_in_another_folder(project: Project) -> None:
    text = "name: app\nservices: {a: {image: x, volumes: ['./d:/d']}}"
    first = stack_digest(read_stack(project(text)))
    assert stack_digest(read_stack(project(text).rename("other"))) == first
