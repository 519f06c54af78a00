"""What is written for the containers from an inventory, and what of an inventory cannot work inside one."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from homelab_pipelines.docker_deployment import (
    USER_ID,
    DockerDeployment,
    compose_folder,
    prepare,
    unreadable,
    user_id,
)
from homelab_pipelines.inventory.loader import load
from homelab_pipelines.inventory.model import Homelab
from homelab_pipelines.local_deployment import DeploymentFailed
from homelab_pipelines.socket_proxy import Rules, launcher_config
from tests.integration.house import merged

IMAGE = "homelab-pipelines:local"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of homelab.yaml with a secret below it, and beside it a NAS and a secret of its own."""
    base = tmp_path / "srv"
    (base / "secrets").mkdir(parents=True)
    (tmp_path / "nas").mkdir()
    for path in (base / "secrets/main", tmp_path / "elsewhere"):
        path.write_text("a secret\n")
        path.chmod(0o600)
    return base


def house(folder: Path, changes: dict[str, Any] | None = None) -> tuple[DockerDeployment, Homelab]:
    base = {
        "homelab": "test",
        "databases": {
            "main": {"kind": "postgres", "at": {"host": "192.168.1.10"}, "password": {"file": "secrets/main"}}
        },
        "backups": {"targets": {"nas": {"directory": str(folder.parent / "nas")}}},
    }
    path = folder / "homelab.yaml"
    path.write_text(yaml.safe_dump(merged(base, changes or {})))
    return DockerDeployment(path, folder / ".homelab", 3210), load(path)


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    path = tmp_path / "docker.sock"
    path.touch()
    return path


def test_containers_are_given_each_path_of_the_inventory_where_it_is_on_the_machine(folder: Path, socket: Path) -> None:
    at = {"password": {"file": str(folder.parent / "elsewhere")}}
    deployment, homelab = house(folder, {"databases": {"main": at}})
    prepare(deployment, homelab, IMAGE, socket)
    settings = yaml.safe_load((deployment.folder / "dagster.yaml").read_text())
    volumes = launcher_config(settings)["container_kwargs"]["volumes"]
    nas, elsewhere = folder.parent / "nas", folder.parent / "elsewhere"
    assert {f"{folder}:{folder}:ro", f"{nas}:{nas}:rw", f"{elsewhere}:{elsewhere}:ro"} <= set(volumes)
    assert {"homelab_state:/var/lib/homelab", "homelab_scratch:/var/tmp"} <= set(volumes), "the project's own stay"
    assert len(volumes) == 6 and Rules.of(settings, IMAGE).binds >= {f"{nas}:{nas}:rw"}
    mounts = yaml.safe_load((deployment.folder / "compose.mounts.yaml").read_text())
    assert mounts["services"]["code-server"]["volumes"] == [f"{elsewhere}:{elsewhere}:ro"]
    variables = dict(line.split("=", 1) for line in (deployment.folder / ".env").read_text().splitlines())
    assert variables["HOMELAB_FOLDER"] == f"'{folder}'" and variables["PORT"] == "'3210'"


def test_password_is_made_once_and_its_folder_is_closed(folder: Path, socket: Path) -> None:
    deployment, homelab = house(folder)
    prepare(deployment, homelab, IMAGE, socket)
    path = deployment.folder / "secrets/postgres_password"
    first = path.read_text()
    assert len(first) > 20
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700 and stat.S_IMODE(path.stat().st_mode) == 0o444
    prepare(deployment, homelab, IMAGE, socket)
    assert path.read_text() == first
    written = [each for each in deployment.folder.iterdir() if each.is_file()]
    assert len(written) == 3 and not [each for each in written if first in each.read_text()]


def test_own_settings_are_taken_and_change_the_digest(folder: Path, socket: Path) -> None:
    deployment, homelab = house(folder)
    prepare(deployment, homelab, IMAGE, socket)
    before = (deployment.folder / ".env").read_text()
    settings = yaml.safe_load((compose_folder() / "dagster.yaml").read_text())
    settings["concurrency"]["runs"]["max_concurrent_runs"] = 1
    (deployment.folder / "local.dagster.yaml").write_text(yaml.safe_dump(settings))
    prepare(deployment, homelab, IMAGE, socket)
    assert yaml.safe_load((deployment.folder / "dagster.yaml").read_text())["concurrency"]["runs"] == {
        "max_concurrent_runs": 1
    }
    assert (deployment.folder / ".env").read_text() != before


@pytest.mark.parametrize(
    ("changes", "where", "following"),
    [
        (
            {"databases": {"main": {"password": {"file": None, "env": "PG_MAIN"}}}},
            "databases.main.password: {env: PG_MAIN} would stand in `docker inspect`",
            "{file: secrets/pg-main}",
        ),
        ({"alerts": {"to": [{"env": "NTFY_URL"}]}}, "alerts.to[0]: {env: NTFY_URL}", "{file: secrets/ntfy-url}"),
        (
            {"databases": {"main": {"password": {"file": "~/secret"}}}},
            "databases.main.password: ~ is another folder in a container",
            "write the whole path of ~/secret",
        ),
        (
            {"databases": {"main": {"at": {"host": None, "container": "immich_postgres"}}}},
            "databases.main.at: run containers may not enter other containers",
            "docker network connect homelab immich_postgres",
        ),
        (
            {"databases": {"main": {"at": {"host": None, "pod": "postgres-0"}}}},
            "databases.main.at: run containers have no kubeconfig",
            "at: {host: …}",
        ),
        ({"backups": {"targets": {"nas": {"directory": "/mnt/none"}}}}, "/mnt/none: there is no such folder", "mount"),
    ],
    ids=["secret in the environment", "second of these", "home", "container", "pod", "no folder"],
)
def test_what_cannot_work_in_a_container_is_said_with_the_next_step(
    folder: Path, socket: Path, changes: dict[str, Any], where: str, following: str
) -> None:
    deployment, homelab = house(folder, changes)
    with pytest.raises(DeploymentFailed) as caught:
        prepare(deployment, homelab, IMAGE, socket)
    said = str(caught.value)
    assert said.startswith("homelab.yaml cannot be used under Docker:\n")
    assert where in said and following in said.partition("next: ")[2]
    assert not deployment.folder.exists(), "nothing was written"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")
def test_closed_secrets_and_folders_are_named(folder: Path) -> None:
    deployment, homelab = house(folder)
    assert user_id(deployment.inventory) == USER_ID, "root's file: the image's own user"
    (folder / "secrets/main").chmod(0o640)
    said = unreadable(deployment, homelab, "no-such-image")
    assert [sentence.splitlines()[0] for sentence in said] == [
        f"{folder}/secrets/main cannot be read by user {USER_ID} of the containers",
        f"{folder.parent}/nas cannot be written to by user {USER_ID} of the containers",
    ]
    for path in (folder / "secrets/main", folder.parent / "nas"):
        os.chown(path, USER_ID, USER_ID)
    assert unreadable(deployment, homelab, "no-such-image") == []
    os.chown(deployment.inventory, 1000, 1000)
    assert user_id(deployment.inventory) == 1000, "a person's file: the image is built for that person"
