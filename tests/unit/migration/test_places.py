"""Every value leads to the line that it was written in, however it got into the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from homelab_pipelines.migration.reading import read_stack
from homelab_pipelines.migration.stack import Stack
from tests.unit.migration.conftest import Project

COMPOSE = """
    name: everything
    include:
      - sub/included.yaml
      - {path: [sub/two.yaml, sub/two.over.yaml]}
    x-common: &common
      restart: always                                     # restart by merge
      environment: &env
        TZ: UTC                                           # TZ by merge
    services:
      web:
        <<: *common
        image: nginx:${TAG:-1.27}                         # image
        command: serve --all                              # command is a list
        environment:
          <<: *env
          OWN: 1                                          # own variable
        ports:
          - "8080:80"                                     # first port
          - target: 443                                   # second port, long
            published: "8443"
          - "9000-9001:9000-9001/udp"                     # range
        volumes:
          - data:/data/                                   # volume with a slash
          - ${HOST_DIR:-./conf}:/etc/conf:ro              # bind with a colon in its variable
          - {type: tmpfs, target: /scratch}               # tmpfs
        depends_on: [db, cache]                           # short depends_on
        labels:
          - traefik.http.routers.web.rule=Host(`a=b`)     # label in a list
        extra_hosts: {nas: 192.168.1.20}                  # hosts
        healthcheck: {test: curl -f http://localhost}     # test is a list
        build: .                                          # short build
      db:
        extends: {file: base/base.yaml, service: postgres}
        environment: [POSTGRES_DB=app]                    # variable in a list
      cache:
        extends: db
        image: redis:7                                    # image over extends
    volumes:
      data: {driver_opts: {type: nfs}}                    # driver option
    """
FILES = {
    "sub__included_DOT_yaml": """
        services:
          sidecar:
            image: side                                   # included image
            networks: [back]
        networks:
          back: {internal: true}                          # included network
        """,
    "sub__two_DOT_yaml": """
        services:
          two:
            image: two                                    # two image
            ports: ["1:1"]                                # two first port
        """,
    "sub__two_DOT_over_DOT_yaml": """
        services:
          two:
            ports: ["2:2"]                                # two second port
        """,
    "base__base_DOT_yaml": """
        services:
          root:
            image: postgres:17                            # image through two extends
            healthcheck: {interval: 30s}                  # interval through two extends
          postgres:
            extends: root
            environment: {POSTGRES_USER: app}             # variable by extends
        """,
    "compose_DOT_override_DOT_yaml": """
        services:
          web:
            environment:
              OVER: 2                                     # variable of the override
            ports:
              - 10.0.0.1:8081:81                          # port of the override
        """,
}
WHERE = {
    ("services", "web", "restart"): "restart by merge",
    ("services", "web", "environment", "TZ"): "TZ by merge",
    ("services", "web", "environment", "OWN"): "own variable",
    ("services", "web", "environment", "OVER"): "variable of the override",
    ("services", "web", "image"): "image",
    ("services", "web", "command", 1): "command is a list",
    ("services", "web", "ports", 0, "published"): "first port",
    ("services", "web", "ports", 1, "target"): "second port, long",
    ("services", "web", "ports", 3, "target"): "range",
    ("services", "web", "ports", 4, "host_ip"): "port of the override",
    ("services", "web", "volumes", 0, "source"): "volume with a slash",
    ("services", "web", "volumes", 1, "read_only"): "bind with a colon in its variable",
    ("services", "web", "volumes", 2, "target"): "tmpfs",
    ("services", "web", "depends_on", "cache", "condition"): "short depends_on",
    ("services", "web", "labels", "traefik.http.routers.web.rule"): "label in a list",
    ("services", "web", "extra_hosts", 0): "hosts",
    ("services", "web", "healthcheck", "test", 1): "test is a list",
    ("services", "web", "build", "context"): "short build",
    ("services", "db", "environment", "POSTGRES_DB"): "variable in a list",
    ("services", "db", "environment", "POSTGRES_USER"): "variable by extends",
    ("services", "db", "image"): "image through two extends",
    ("services", "db", "healthcheck", "interval"): "interval through two extends",
    ("services", "cache", "image"): "image over extends",
    ("services", "cache", "environment", "POSTGRES_DB"): "variable in a list",
    ("services", "sidecar", "image"): "included image",
    ("services", "two", "image"): "two image",
    ("services", "two", "ports", 0, "target"): "two first port",
    ("services", "two", "ports", 1, "target"): "two second port",
    ("networks", "back", "internal"): "included network",
    ("volumes", "data", "driver_opts", "type"): "driver option",
}


@pytest.fixture
def stack(project: Project) -> Stack:
    return read_stack(project(COMPOSE, **FILES))


def value_at(stack: Stack, path: tuple[str | int, ...]) -> object:
    value: object = stack.model
    for step in path:
        value = value[step]  # type: ignore[index]
    return value


@pytest.mark.parametrize("path", WHERE, ids=lambda path: ".".join(map(str, path)))
def test_value_leads_to_the_line_that_says_it(path: tuple[str | int, ...], stack: Stack) -> None:
    value_at(stack, path)
    place = stack.place(path)
    line = Path(place.file).read_text().split("\n")[place.line - 1]
    assert line.endswith(f"# {WHERE[path]}"), f"{place} is {line}"
    assert line[place.column - 1].strip(), "the column is that of a text"


def test_what_compose_made_up_leads_to_what_it_made_it_up_for(stack: Stack) -> None:
    made_up = ("services", "web", "networks", "default")
    assert made_up not in stack.places
    assert stack.place(made_up) == stack.places["services", "web"]
    assert stack.place(("networks", "default", "name")).line >= 1


def test_every_leaf_that_is_written_has_a_place_of_its_own(stack: Stack) -> None:
    """What is left over are the values that Compose adds to every project, by name."""
    added = {"entrypoint", "command", "default", "ipam", "name", "required", "dockerfile", "mode", "protocol"}
    left = {path for path, _ in stack.leaves() if path not in stack.places}
    assert {path for path in left if path[-1] not in added} == set()
