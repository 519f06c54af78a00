"""The image of deploy/Dockerfile: who it runs as, what is in it, and that its health check can pass and fail."""

from __future__ import annotations

import json
import re
import time

import pytest

from homelab_pipelines.docker_deployment import USER_ID
from tests.deployed import until
from tests.peers import image_programs
from tests.peers.docker import DockerPeer

pytestmark = pytest.mark.docker

INVENTORY = """
homelab: test
databases: {main: {kind: postgres, at: {host: 127.0.0.1}, include: [photos]}}
backups: {targets: {nas: {directory: /var/lib/homelab/nas}}}
"""
UNCOMPILED = """
import importlib.util, pathlib, sysconfig
folder = pathlib.Path(sysconfig.get_path("purelib"))
sources = [each for each in folder.rglob("*.py")]
print(len(sources), *(each for each in sources if not pathlib.Path(importlib.util.cache_from_source(each)).exists()))
"""


def in_image(engine: DockerPeer, image: str, *command: str) -> str:
    return engine.docker("run", "--rm", "--network", "none", image, *command)


def test_image_runs_as_an_ordinary_user_who_may_not_change_the_code(docker_engine: DockerPeer, image: str) -> None:
    assert in_image(docker_engine, image, "id", "--user") == str(USER_ID)
    writable = "find /opt/homelab /opt/dagster /usr -writable ! -type l -print -quit"
    assert in_image(docker_engine, image, "sh", "-c", writable) == ""


def test_image_says_what_it_is_and_holds_no_secret_and_no_state(docker_engine: DockerPeer, image: str) -> None:
    [found] = json.loads(docker_engine.docker("image", "inspect", image))
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "homelab-pipelines"
    assert labels["org.opencontainers.image.revision"] == "a-revision"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert not [each for each in found["Config"]["Env"] if re.search("(?i)password|token|secret|key", each)]
    assert in_image(docker_engine, image, "find", "/var/lib/homelab", "/opt/dagster", "-type", "f") == ""


def test_every_module_is_compiled(docker_engine: DockerPeer, image: str) -> None:
    count, *missing = in_image(docker_engine, image, "python", "-c", UNCOMPILED).split()
    assert int(count) > 3000 and missing == []


def test_bill_of_materials_lists_python_and_debian_packages(docker_engine: DockerPeer, image: str) -> None:
    path = "/usr/share/doc/homelab-pipelines/sbom.json"
    document = json.loads(in_image(docker_engine, image, "cat", path))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["component"]["name"] == "homelab-pipelines"
    versions = {each["purl"].partition("@")[0]: each["version"] for each in document["components"]}
    said = in_image(docker_engine, image, "python", "-c", "import dagster; print(dagster.__version__)")
    assert versions["pkg:pypi/dagster"] == said
    assert {"pkg:pypi/dagster-docker", "pkg:pypi/psycopg", "pkg:deb/debian/libc6"} <= set(versions)
    references = [each["bom-ref"] for each in document["components"]]
    assert len(references) == len(set(references))


def test_kubectl_and_kompose_run_and_stand_in_the_bill_of_materials(docker_engine: DockerPeer, image: str) -> None:
    document = json.loads(in_image(docker_engine, image, "cat", "/usr/share/doc/homelab-pipelines/sbom.json"))
    listed = {each["name"]: each for each in document["components"] if each["type"] == "application"}
    for program, words in (("kubectl", ("version", "--client")), ("kompose", ("version",))):
        path, version = f"/opt/homelab/bin/{program}", listed[program]["version"]
        assert version in in_image(docker_engine, image, program, *words)
        [digest] = listed[program]["hashes"]
        assert in_image(docker_engine, image, "sha256sum", path).split()[0] == digest["content"]
    # The versions that the modules pin.
    for program, module in (("kubectl", "k8s.io/kubectl v0"), ("kompose", "github.com/kubernetes/kompose v1")):
        pinned = (image_programs.SOURCES / program / "go.mod").read_text()
        assert f"{module}{listed[program]['version'].removeprefix('1')}" in pinned


def test_image_reads_and_converts_a_stack(docker_engine: DockerPeer, image: str) -> None:
    compose = "services: {web: {image: 'nginx:1', ports: ['8080:80']}}"
    script = f'mkdir /tmp/a && echo "{compose}" > /tmp/a/compose.yaml && homelab convert /tmp/a -o /tmp/b --json'
    said = json.loads(in_image(docker_engine, image, "sh", "-c", script))
    assert (said["status"], said["leaves"]["unaccounted"]) == ("converted", 0)


def test_image_says_which_postgresql_it_has_and_each_of_them_runs(docker_engine: DockerPeer, image: str) -> None:
    path = "/usr/share/doc/homelab-pipelines/postgresql.json"
    listed = json.loads(in_image(docker_engine, image, "cat", path))
    assert {(each["major"], each["client"], each["server"]) for each in listed} == {
        (15, True, False),  # Debian's client alone was asked for
        (18, True, True),  # the wheel's
    }
    for each in listed:
        said = in_image(docker_engine, image, f"{each['folder']}/pg_dump", "--version")
        assert said.startswith(f"pg_dump (PostgreSQL) {each['version']}")


def test_code_server_loads_the_code_location_and_its_health_check_passes(docker_engine: DockerPeer, image: str) -> None:
    write = f"printf '%s' '{INVENTORY}' > homelab.yaml"
    serve = "exec dagster code-server start --host 0.0.0.0 --port 4000 --module-name homelab_pipelines.definitions"
    started = time.monotonic()
    shell = ("sh", "-c", f"{write}; {serve}")
    docker_engine.docker(
        *("run", "--detach", "--name", "code", "--network", "none", "--health-interval", "1s", image, *shell)
    )
    try:
        health = ("inspect", "--format", "{{.State.Health.Status}}", "code")
        assert docker_engine.docker(*health) == "starting"
        until(lambda: docker_engine.docker(*health) == "healthy", 90, lambda: docker_engine.logs("code"))
        print(f"\ncode server: healthy after {time.monotonic() - started:.1f} s")
    finally:
        docker_engine.docker("rm", "--force", "code")


def test_health_check_of_a_container_without_a_code_server_fails(docker_engine: DockerPeer, image: str) -> None:
    shell = "python -m homelab_pipelines.container_health code-server 2>&1; echo status $?"
    said = in_image(docker_engine, image, "sh", "-c", shell)
    assert "the code server on port 4000 does not answer" in said and said.endswith("status 1")


def test_entrypoint_names_a_secret_that_it_may_not_read(docker_engine: DockerPeer, image: str) -> None:
    with pytest.raises(AssertionError, match="DAGSTER_PG_PASSWORD_FILE names /etc/shadow, which is missing or closed"):
        docker_engine.docker(
            *("run", "--rm", "--network", "none", "--env", "DAGSTER_PG_PASSWORD_FILE=/etc/shadow", image, "true")
        )
