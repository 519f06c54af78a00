"""What the rules of the socket proxy let through and what not, judged by the body that docker-py really sends."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import docker.models.containers
import pytest
import yaml

from homelab_pipelines.socket_proxy import Proxy, Refused, Rules, launcher_config

IMAGE = "homelab-pipelines:local"
SETTINGS = yaml.safe_load((Path(__file__).parents[2] / "deploy/docker/dagster.yaml").read_text())
RULES = Rules.of(SETTINGS, IMAGE)


def body(**changes: Any) -> dict[str, Any]:
    """A create as dagster_docker has docker-py write it, with changes to its top level and to HostConfig."""
    keywords = dict(launcher_config(SETTINGS)["container_kwargs"])
    keywords.pop("stop_timeout")
    labels = {**keywords.pop("labels"), "dagster/run_id": "1", "dagster/job_name": "nightly_backup"}
    arguments = docker.models.containers._create_container_args(
        {
            "image": IMAGE,
            "command": ["dagster", "api", "execute_run", "{}"],
            "detach": True,
            "environment": {"HOMELAB_INVENTORY": "/srv/homelab.yaml", "DAGSTER_RUN_JOB_NAME": "nightly_backup"},
            "network": "homelab",
            "labels": labels,
            "version": "1.41",
            **keywords,
        }
    )
    written: dict[str, Any] = docker.types.ContainerConfig("1.41", **arguments)
    host = {**written["HostConfig"], **changes.pop("HostConfig", {})}
    return {**written, "HostConfig": host, **changes}


def test_container_of_the_launcher_is_let_through() -> None:
    RULES.check_create(body())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Image": "evil:1"}, "the image evil:1"),
        ({"Labels": {"homelab/deployment": "homelab"}}, "the labels"),
        ({"Labels": {"dagster/run_id": "1", "homelab/deployment": "another"}}, "the labels"),
        ({"Cmd": ["sh", "-c", "id"]}, "the command"),
        ({"Cmd": None}, "the command"),
        ({"Env": ["LD_PRELOAD=/tmp/evil.so"]}, "the variable LD_PRELOAD"),
        ({"User": "root"}, "User"),
        ({"Entrypoint": ["sh"]}, "Entrypoint"),
        ({"Mounts": [{"Source": "/"}]}, "Mounts"),
        ({"hostconfig": {"Privileged": True}}, "hostconfig"),
        ({"NetworkingConfig": {"EndpointsConfig": {"other": {}}}}, "the network other"),
        ({"NetworkingConfig": {"endpointsconfig": {"other": {}}}}, "NetworkingConfig.endpointsconfig"),
        ({"HostConfig": {"NetworkMode": "host"}}, "the network host"),
        ({"HostConfig": {"NetworkMode": "container:postgres"}}, "the network container:postgres"),
        ({"HostConfig": {"NetworkMode": None}}, "the network None"),
        ({"HostConfig": {"Binds": ["/:/host:ro"]}}, "the volume /:/host:ro"),
        ({"HostConfig": {"Binds": ["homelab_state:/etc"]}}, "the volume homelab_state:/etc"),
        ({"HostConfig": {"binds": ["/:/host"]}}, "HostConfig.binds"),
        ({"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/"}]}}, "HostConfig.Mounts"),
        ({"HostConfig": {"Privileged": True}}, "HostConfig.Privileged"),
        ({"HostConfig": {"privileged": True}}, "HostConfig.privileged"),
        ({"HostConfig": {"PidMode": "host"}}, "HostConfig.PidMode"),
        ({"HostConfig": {"CapAdd": ["SYS_ADMIN"]}}, "HostConfig.CapAdd"),
        ({"HostConfig": {"Devices": [{"PathOnHost": "/dev/sda"}]}}, "HostConfig.Devices"),
        ({"HostConfig": {"VolumesFrom": ["postgres"]}}, "HostConfig.VolumesFrom"),
        ({"HostConfig": {"SecurityOpt": ["apparmor=unconfined"]}}, "the security option apparmor=unconfined"),
        ({"HostConfig": {"UsernsMode": "host"}}, "HostConfig.UsernsMode"),
        ({"HostConfig": {"PortBindings": {"22/tcp": [{}]}}}, "HostConfig.PortBindings"),
        ({"HostConfig": {"Runtime": "other"}}, "HostConfig.Runtime"),
        ({"HostConfig": "text"}, "HostConfig"),
        ({"Labels": ["dagster/run_id"]}, "Labels"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_anything_else_is_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    whole = {**body(), **changes} if not isinstance(changes.get("HostConfig"), dict) else body(**changes)
    with pytest.raises(Refused) as caught:
        RULES.check_create(whole)
    assert reason in str(caught.value)


def test_only_runs_of_this_deployment_are_owned() -> None:
    def container(**labels: str) -> dict[str, Any]:
        return {"Config": {"Labels": {name.replace("__", "/"): value for name, value in labels.items()}}}

    assert RULES.owns(container(dagster__run_id="1", homelab__deployment="homelab"))
    assert not RULES.owns(container(dagster__run_id="1", homelab__deployment="another"))
    assert not RULES.owns(container(homelab__deployment="homelab"))
    assert not RULES.owns({"Config": {"Labels": None}})


def test_rules_of_a_docker_launcher_alone_are_those_of_one_that_another_holds() -> None:
    alone = {"module": "dagster_docker", "class": "DockerRunLauncher", "config": launcher_config(SETTINGS)}
    assert SETTINGS["run_launcher"]["class"] == "RoutingRunLauncher"
    assert Rules.of({"run_launcher": alone}, IMAGE) == RULES


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"networks": ["a", "b"], "container_kwargs": {"labels": {"homelab/deployment": "x"}}}, "exactly one network"),
        ({"networks": ["a"]}, "homelab/deployment"),
    ],
)
def test_settings_that_give_no_rules_are_refused(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Rules.of({"run_launcher": {"class": "DockerRunLauncher", "config": config}}, IMAGE)
    with pytest.raises(ValueError, match="holds 0"):
        Rules.of({}, IMAGE)


def test_proxy_ends_when_nobody_listens_at_the_socket_it_has(tmp_path: Path) -> None:
    engine = tmp_path / "docker.sock"
    with Proxy(("127.0.0.1", 0), str(engine), RULES) as proxy:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(engine))
            listener.listen()
            proxy.service_actions()
        proxy.service_actions()  # not looked at again so soon
        proxy._looked = 0.0
        with pytest.raises(SystemExit, match="started again for the new socket"):
            proxy.service_actions()
