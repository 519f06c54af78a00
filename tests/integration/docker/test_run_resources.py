"""What assets ask for, as limits of the container that a real Docker Engine makes for a run, also through the proxy."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator

import dagster as dg
import pytest
import yaml
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.test_utils import in_process_test_workspace
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from homelab_pipelines.socket_proxy import Proxy, Rules, launcher_config
from tests.integration.house import REPOSITORY
from tests.peers.docker import IMAGE, DockerPeer

pytestmark = pytest.mark.docker
GIB = 1024**3
NETWORK = "limits"
INVENTORY = {
    "homelab": "home",
    "databases": {
        "main": {
            "kind": "postgres",
            "at": {"host": "127.0.0.1"},
            "include": ["photos"],
            "resources": {"cpu": 1.5, "memory": "3GiB"},
        },
        "spare": {"kind": "postgres", "at": {"host": "127.0.0.1"}, "include": ["files"]},
    },
    "backups": {"targets": {"nas": {"directory": "nas"}}},
}


@pytest.fixture(scope="module", params=["engine", "proxy"])
def instance(
    request: pytest.FixtureRequest, docker_engine: DockerPeer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dg.DagsterInstance]:
    """An instance whose runs go to containers as deploy/docker makes them, but for its folders and its image."""
    folder = tmp_path_factory.mktemp("limits")
    (folder / "homelab.yaml").write_text(yaml.safe_dump(INVENTORY))
    docker_engine.docker("network", "create", NETWORK)
    config = launcher_config(yaml.safe_load((REPOSITORY / "deploy/docker/dagster.yaml").read_text()))
    config |= {"image": IMAGE, "networks": [NETWORK], "env_vars": []}
    config["container_kwargs"].pop("volumes")
    held = {"module": "homelab_pipelines.docker_launcher", "class": "ContainerRunLauncher", "config": config}
    launcher = {
        "module": "homelab_pipelines.launchers",
        "class": "RoutingRunLauncher",
        "config": {"launchers": {"box": held}, "default": "box"},
    }
    rules = Rules.of({"run_launcher": {"class": "DockerRunLauncher", "config": config}}, IMAGE)
    proxy = Proxy(("127.0.0.1", 0), docker_engine.host.removeprefix("unix://"), rules)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    address = docker_engine.host if request.param == "engine" else f"tcp://127.0.0.1:{proxy.server_address[1]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", address)
        patch.setenv("HOMELAB_INVENTORY", str(folder / "homelab.yaml"))
        patch.setenv("HOMELAB_HOME", str(folder / "state"))
        with dg.DagsterInstance.local_temp(overrides={"run_launcher": launcher}) as instance:
            yield instance
    proxy.shutdown()
    thread.join()
    proxy.server_close()
    if made := docker_engine.docker("ps", "--all", "--quiet", "--filter", "label=dagster/run_id").split():
        docker_engine.docker("rm", "--force", *made)
    docker_engine.docker("network", "rm", NETWORK)


def limits(engine: DockerPeer, instance: dg.DagsterInstance, *assets: str) -> tuple[int, int]:
    """Bytes and billionths of a core of the container that a run of these assets gets; of the whole job without."""
    code = LoadableTargetOrigin(executable_path=sys.executable, module_name="homelab_pipelines.definitions")
    with in_process_test_workspace(instance, code) as workspace:
        job = workspace.code_locations[0].get_repository("__repository__").get_full_job("nightly_backup")
        run = dg.DagsterRun(
            job_name="nightly_backup",
            remote_job_origin=job.get_remote_origin(),
            job_code_origin=job.get_python_origin(),
            asset_selection=frozenset(dg.AssetKey(each.split("/")) for each in assets) or None,
        )
        instance.add_run(run)
        try:
            instance.run_launcher.launch_run(LaunchRunContext(run, workspace))
        except Exception as error:  # the image has no Dagster: the container is made, and its command not found
            assert "dagster" in str(error), error
    [name] = engine.docker("ps", "--all", "--quiet", "--filter", f"label=dagster/run_id={run.run_id}").split()
    [inspected] = json.loads(engine.docker("inspect", name))
    return inspected["HostConfig"]["Memory"], inspected["HostConfig"]["NanoCpus"]


def test_container_of_a_run_has_the_largest_limits_that_its_assets_ask_for(
    docker_engine: DockerPeer, instance: dg.DagsterInstance
) -> None:
    assert limits(docker_engine, instance) == (3 * GIB, 1_500_000_000)
    assert limits(docker_engine, instance, "database_backup/photos") == (3 * GIB, 1_500_000_000)


def test_container_of_a_run_that_asks_for_nothing_has_those_of_dagster_yaml(
    docker_engine: DockerPeer, instance: dg.DagsterInstance
) -> None:
    assert limits(docker_engine, instance, "database_backup/files") == (2 * GIB, 0)
