"""What Compose takes in silence or with a word is a warning with its place; YAML 1.1 is read as Compose means it."""

from __future__ import annotations

import pytest

from homelab_pipelines.migration.reading import read_stack
from tests.unit.migration.conftest import Project

PUT = "Compose puts nothing in its place"


def warned(project: Project, compose: str, **files: str) -> list[str]:
    """Each warning as line:column and message."""
    stack = read_stack(project(compose, **files))
    assert all(warning.hint for warning in stack.warnings)
    return [f"{each.line}:{each.column} {each.message}" for each in stack.warnings]


def test_every_use_of_a_variable_that_is_not_set_is_named(project: Project) -> None:
    assert warned(
        project,
        """
        services:
          web:
            image: nginx:${TAG}
            command: |
              one $ONE ${HAS:-default} $$HOME
              ${TAG} # no comment here
            labels: [a=$ONE]   # $COMMENT
            hostname: ${OUTER:-${TAG}}
            domainname: ${SET}
        """,
        _DOT_env="SET=1\n",
    ) == [
        f"3:18 the variable TAG is not set; {PUT}",
        f"5:11 the variable ONE is not set; {PUT}",
        f"6:7 the variable TAG is not set; {PUT}",
        f"7:16 the variable ONE is not set; {PUT}",
        f"8:24 the variable TAG is not set; {PUT}",
    ]


def test_variables_of_an_include_are_those_of_its_own_env_file(project: Project) -> None:
    said = warned(
        project,
        "include: [sub/compose.yaml]\nservices: {web: {image: 'x:$HERE'}}",
        sub__compose_DOT_yaml="services: {in: {image: 'y:$HERE', hostname: $NOWHERE}}",
        sub___DOT_env="HERE=1",
    )
    assert said == [f"2:28 the variable HERE is not set; {PUT}", f"1:45 the variable NOWHERE is not set; {PUT}"]


@pytest.mark.parametrize(
    ("compose", "message"),
    [
        ("version: '3'\nservices: {a: {image: x}}", "1:1 Compose ignores version"),
        (
            "services: {a: {image: x, ports: [2222:22]}}",
            "1:34 this port pair without quotes is a number of base 60 to readers of YAML 1.1; Compose reads a pair",
        ),
        (
            "services: {a: {image: x, environment: {UMASK: 0022}}}",
            "1:40 UMASK is a number without quotes, and becomes another text than is written here",
        ),
        (
            "services: {a: {image: x, environment: {V: 1.10}}}",
            "1:40 V is a number without quotes, and becomes another text than is written here",
        ),
        (
            "services: {a: {image: x, privileged: yes}}",
            "1:26 privileged is true to Compose, and a text to readers of YAML 1.2",
        ),
        (
            "services: {a: {image: x, environment: [TOKEN]}}",
            "1:40 TOKEN has no value here: it comes from the shell that starts Compose, and is not in .env",
        ),
        (
            "services: {a: {image: x, environment: [A=1, B=2, A=3]}}",
            "1:50 'A' is in this list twice; Compose takes the last",
        ),
        (
            "services: {a: {image: x, profiles: [debug, test]}}",
            "1:26 service 'a' runs only with profile debug or test; it is read all the same",
        ),
        (
            "services: {a: {image: x, env_file: [{path: no.env, required: false}]}}",
            "1:37 this env file does not exist; it is not required, so Compose goes on without it",
        ),
        (
            "services: {a: {image: x, deploy: {placement: {constraints: [node.role==manager]}}}}",
            "1:35 Compose ignores this: deploy.placement is only honored by the Swarm scheduler",
        ),
        (
            "services: {a: {image: x}}\nvolumes: {old: }",
            "2:11 no service uses this entry of volumes; Compose leaves it out",
        ),
        (
            "services: {a: {image: x, environment: ['PASSWORD:hunter2']}}",
            "1:40 this is no NAME=value, and the whole becomes a name",
        ),
        (
            "services: {a: {image: x, environment: {PASSWORD: 'pa$hunter2'}}}",
            "1:53 a $ within a word begins the name of a variable that is not set, and that part is lost",
        ),
        (
            "services: {a: {image: x, volumes: ['~/data:/data']}}",
            "1:36 ~ is the home folder of whoever reads this file, and may be another on the host",
        ),
        (
            "services: {a: {image: x, environment: {H: '${HOME}/x', P: '${PATH:-none}'}}}",
            "1:44 HOME is that of whoever reads this file, and may be another on the host",
        ),
        (
            "services: {a: {image: x, secrets: [key]}}\nsecrets: {key: {file: none.txt}}",
            "2:17 the file of secrets entry 'key' does not exist",
        ),
        (
            "services: {a: {image: x, networks: [n]}}\nnetworks: {n: {external: {name: m}}}",
            "2:12 external.name is deprecated",
        ),
    ],
)
def test_what_compose_takes_is_said_with_its_place(compose: str, message: str, project: Project) -> None:
    assert warned(project, compose) == [message]


@pytest.mark.parametrize(
    "compose",
    [
        "services: {a: {image: x, environment: {A: 22, B: true, C: '0022', D: 1.5, E: yes, F: 2026-01-01}}}",
        "services: {a: {image: x, ports: ['2222:22', 8080:80, '80']}}",
        "services: {a: {image: x, privileged: true, stdin_open: false}}",
        "services: {a: {image: x, env_file: [{path: compose.yaml, required: false}]}}",
        "services: {a: {image: x, command: 'echo $$NOT $${EITHER}'}}",
        "x-a: &a {TZ: UTC}\nx-b: &a {TZ: Europe/Berlin}\nservices: {a: {image: x, environment: *a}}",
        "services: {a: {image: x, init: !!bool true, hostname: !!str 5}}",
    ],
)
def test_what_is_sound_is_not_warned_of(compose: str, project: Project) -> None:
    assert warned(project, compose) == []


def test_traps_of_yaml_1_1_are_read_as_compose_means_them(project: Project) -> None:
    stack = read_stack(
        project(
            """
            services:
              a:
                image: x
                ports: [2222:22]
                environment: {A: yes, B: on, C: 12:30:45, D: 0o17}
                secrets: [{source: key, mode: 0440}]
                restart: no
            secrets: {key: {file: key.txt}}
            """
        )
    )
    service = stack.model["services"]["a"]
    assert [(port["published"], port["target"]) for port in service["ports"]] == [("2222", 22)]
    assert service["environment"] == {"A": "yes", "B": "on", "C": "12:30:45", "D": "15"}
    assert service["secrets"][0]["mode"] == "0440"
    assert service["restart"] == "no"


def test_windows_lines_and_tabs_behind_values_are_taken_as_compose_takes_them(project: Project) -> None:
    folder = project("services: {a: {image: x}}")
    text = 'services:\r\n  a:\t# a tab\r\n    image: x\t\r\n    command: |\r\n      a\tb\r\n    ports: ["80:80"]\r\n'
    (folder / "compose.yaml").write_bytes(text.encode())
    stack = read_stack(folder)
    assert stack.warnings == ()
    assert stack.place(("services", "a", "ports", 0, "target")).line == 6


def test_variable_of_the_projects_env_file_is_known_beside_an_include_that_has_its_own(project: Project) -> None:
    said = warned(
        project,
        "include: [sub/compose.yaml]\nservices: {web: {image: x, environment: [TOKEN]}}",
        sub__compose_DOT_yaml="services: {in: {image: y}}",
        sub___DOT_env="OTHER=1",
        _DOT_env="TOKEN=1",
    )
    assert said == []
