"""`homelab up --docker` and the nightly job under the DockerRunLauncher: as promised, and when things break.

The tests of this file are one story, told in order; only the last leaves the deployment broken.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from homelab_pipelines.backup.configured import ConfiguredBackups
from homelab_pipelines.backup.records import list_store
from homelab_pipelines.inventory.loader import load
from homelab_pipelines.local_deployment import graphql
from tests.deployed import JOB, until
from tests.integration.docker.conftest import SOURCE, Compose, inspected, psql
from tests.integration.house import REPOSITORY

pytestmark = pytest.mark.docker
SERVICES = {"postgres", "code-server", "webserver", "daemon", "socket-proxy"}


def test_up_shows_the_first_backup_restored_and_equal_and_the_url(compose: Compose) -> None:
    said = compose.up()
    assert said.status == 0, said.text + compose.diagnostics()
    assert "server main: photos" in said.text
    for step in ("database__photos", "database_backup__photos", "database_backup_restorable__photos"):
        assert f"success  {step}" in said.text, said.text
    assert "success  database_globals_restorable__main" in said.text
    assert f"Dagster UI: {compose.deployment.url}" in said.text
    configured = ConfiguredBackups(load(compose.deployment.inventory), compose.folder, compose.deployment.home)
    for target in ("nas", "usb"):
        records = list_store(configured.store(target)).backups
        assert {record.manifest.source for record in records} == {"main/photos", "main/@globals"}
        assert {record.status for record in records} == {"verified"}
    states = {each["Config"]["Labels"].get("com.docker.compose.service") for each in inspected(compose.engine)}
    assert states >= SERVICES
    print_costs(compose)


def print_costs(compose: Compose) -> None:
    """How long a launch takes until its first step, and what the deployment holds in memory when idle."""
    query = (
        """{ runsOrError(limit: 1) { ... on Runs { results { creationTime startTime stepStats { startTime } } } } }"""
    )
    [run] = graphql(compose.web, query)["runsOrError"]["results"]
    first = min(step["startTime"] for step in run["stepStats"] if step["startTime"])
    print(f"\nlaunch to first step: {first - run['creationTime']:.1f} s")
    print(compose.engine.docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.CPUPerc}}"))


def test_run_has_a_container_of_its_own_with_label_limit_and_no_privilege(compose: Compose) -> None:
    def run_of() -> dict[str, Any]:
        [run] = [each for each in inspected(compose.engine) if each["Config"]["Labels"].get("dagster/run_id")]
        return run

    until(lambda: run_of()["State"]["Status"] != "running", 30, compose.diagnostics)
    run = run_of()
    assert (run["State"]["Status"], run["State"]["ExitCode"]) == ("exited", 0), "kept, so that it can be looked at"
    assert run["Config"]["Labels"]["dagster/job_name"] == JOB
    assert run["Config"]["Labels"]["homelab/deployment"] == "homelab"
    host = run["HostConfig"]
    assert host["Memory"] == 2 * 1024**3 and host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"] and host["NetworkMode"] == "homelab"


def test_up_again_keeps_the_containers_and_backs_nothing_up_again(compose: Compose) -> None:
    before = {each["Id"] for each in inspected(compose.engine)}
    said = compose.up()
    assert said.status == 0, said.text
    assert f"running {JOB}" not in said.text
    assert {each["Id"] for each in inspected(compose.engine)} == before


def test_logs_of_a_run_container_reach_the_ui(compose: Compose) -> None:
    [run] = [each for each in inspected(compose.engine) if each["Config"]["Labels"].get("dagster/run_id")]
    run_id = run["Config"]["Labels"]["dagster/run_id"]
    query = """query ($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
        ... on LogsCapturedEvent { fileKey } } } } }"""
    events = graphql(compose.web, query, {"id": run_id})["logsForRun"]["events"]
    keys = [event["fileKey"] for event in events if event.get("fileKey")]
    assert keys, "the run captured what its steps wrote"
    query = "query ($key: [String!]!) { capturedLogs(logKey: $key) { stdout stderr } }"
    shown = [graphql(compose.web, query, {"key": [run_id, "compute_logs", key]})["capturedLogs"] for key in keys]
    assert any("database_backup__photos" in (each["stderr"] or "") for each in shown), shown


def snapshots(compose: Compose) -> str:
    """What Dagster says of the code: its snapshots of jobs, which its storage has compressed, and the repository's."""
    script = """
import zlib, dagster as dg, sqlalchemy as sa
from dagster._core.definitions.reconstruct import repository_def_from_target_def
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value
from homelab_pipelines import definitions
with dg.DagsterInstance.get() as instance, instance.run_storage.connect() as session:
    for (body,) in session.execute(sa.text("SELECT snapshot_body FROM snapshots")):
        print(zlib.decompress(bytes(body)).decode())
print(serialize_value(RepositorySnap.from_def(repository_def_from_target_def(definitions.defs))))
"""
    said = compose.exec(compose.container("code-server"), "homelab-entrypoint", "python", "-c", script)
    assert said.returncode == 0, said.stderr
    return said.stdout


def test_no_secret_stands_in_containers_logs_or_dagsters_storage(compose: Compose) -> None:
    dumped = compose.exec(compose.container("postgres"), "pg_dump", "--host=/tmp", "--username=dagster", "dagster")
    assert dumped.returncode == 0 and "restorable" in dumped.stdout, "event log and snapshots were looked at"
    containers = inspected(compose.engine)
    looked = {
        "docker inspect": json.dumps([each for each in containers if each["Name"] != f"/{SOURCE}"]),
        "Dagster's storage": dumped.stdout,
        "logs": "\n".join(compose.engine.logs(each["Id"]) for each in containers),
        "snapshots": snapshots(compose),
        "images": compose.engine.docker("image", "inspect", *compose.engine.docker("images", "--quiet").split()),
    }
    assert "DAGSTER_PG_PASSWORD_FILE" in looked["docker inspect"]
    assert '"alerts"' in looked["snapshots"] and "database_backup__photos" in looked["snapshots"]
    for name, secret in compose.secrets.items():
        assert len(secret) > 15
        assert [where for where, text in looked.items() if secret in text] == [], name


def test_socket_proxy_refuses_what_the_launcher_never_does(compose: Compose) -> None:
    webserver = compose.container("webserver")
    postgres = compose.container("postgres")
    create = (
        "client.api.create_container(image, command=['dagster', 'api'], environment={}, "
        "labels={'dagster/run_id': 'x', 'homelab/deployment': 'homelab'}, "
        "host_config=client.api.create_host_config(network_mode='homelab', **{%s}))"
    )
    refused = {
        create % "'binds': ['/:/host']": "the volume /:/host",
        create % "'privileged': True": "HostConfig.Privileged",
        create % "'pid_mode': 'host'": "HostConfig.PidMode",
        create.replace("'homelab', **", "'host', **") % "": "the network host",
        f"client.api.inspect_container('{postgres}')": "the container is no run of this deployment",
        f"client.api.stop('{postgres}')": "the container is no run of this deployment",
        f"client.api.exec_create('{postgres}', 'id')": "the launcher never asks for this",
        "client.api.containers()": "the launcher never asks for this",
        "client.api.images()": "the launcher never asks for this",
        "client.api.volumes()": "the launcher never asks for this",
    }
    image = compose.environment["HOMELAB_IMAGE"]
    script = ["import docker, docker.errors", "client = docker.from_env()", f"image = {image!r}"]
    for call in refused:
        script += ["try:", f"    print('let through', {call})"]
        script += ["except docker.errors.APIError as error:", "    print(error.status_code, error.explanation)"]
    said = compose.exec(webserver, "python", "-c", "\n".join(script))
    lines = said.stdout.splitlines()
    assert len(lines) == len(refused), said.stdout + said.stderr
    for line, reason in zip(lines, refused.values(), strict=True):
        assert line.startswith("403 ") and reason in line, line


def test_socket_proxy_cannot_be_reached_from_code_and_runs(compose: Compose) -> None:
    script = "import socket; socket.create_connection(('socket-proxy', 2375), 3)"
    said = compose.exec(compose.container("code-server"), "python", "-c", script)
    assert said.returncode != 0 and "gaierror" in said.stderr, "it is on another network"


def test_changed_inventory_and_new_database_become_assets_by_themselves(compose: Compose) -> None:
    made = psql(compose, "postgres", "CREATE DATABASE videos", compose.secrets["source"])
    assert made.returncode == 0, made.stderr
    inventory = compose.deployment.inventory
    written = yaml.safe_load(inventory.read_text())
    written["databases"]["main"]["include"].append("videos")
    inventory.write_text(yaml.safe_dump(written))
    query = "{ assetNodes { assetKey { path } } }"

    def paths() -> list[list[str]]:
        return [node["assetKey"]["path"] for node in graphql(compose.web, query)["assetNodes"]]

    until(lambda: ["database_backup", "videos"] in paths(), 60, lambda: f"{paths()}\n{compose.diagnostics()}")


def test_traefik_routes_only_through_a_login_that_must_be_named(compose: Compose) -> None:
    over = compose.deployment.folder / "compose.traefik.yaml"
    shutil.copy(REPOSITORY / "deploy/docker/compose.traefik.yaml", over)

    def config(**more: str) -> subprocess.CompletedProcess[str]:
        words = compose.deployment.compose("config", "--format", "json")
        environment = {**compose.environment, **more}
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)

    try:
        without = config(HOMELAB_UI_HOST="dagster.example.org")
        assert without.returncode != 0 and "FORWARD_AUTH_ADDRESS" in without.stderr
        done = config(HOMELAB_UI_HOST="dagster.example.org", FORWARD_AUTH_ADDRESS="http://login:9091/forward-auth")
        assert done.returncode == 0, done.stderr
    finally:
        over.unlink()
    webserver = json.loads(done.stdout)["services"]["webserver"]
    labels, prefix = webserver["labels"], "traefik.http.middlewares.homelab-dagster-login.forwardauth"
    assert labels["traefik.http.routers.homelab-dagster.rule"] == "Host(`dagster.example.org`)"
    assert labels["traefik.http.routers.homelab-dagster.middlewares"] == "homelab-dagster-login"
    assert labels[f"{prefix}.address"] == "http://login:9091/forward-auth"
    assert [port["host_ip"] for port in webserver["ports"]] == ["127.0.0.1"]
