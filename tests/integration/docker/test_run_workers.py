"""Finished containers of runs on a real Docker Engine, removed directly and through the proxy for that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import docker
import docker.errors
import pytest

from homelab_pipelines.housekeeping.docker_workers import DockerWorkers
from homelab_pipelines.housekeeping.errors import HousekeepingError
from homelab_pipelines.housekeeping.run_workers import Reaped, reap
from homelab_pipelines.socket_proxy import Proxy, Rules
from tests.peers.docker import IMAGE, DockerPeer

pytestmark = pytest.mark.docker
DEPLOYMENT = "reaped"  # none that another test on this engine has
RULES = Rules(DEPLOYMENT, IMAGE, frozenset(), frozenset(), frozenset())
# What the instance says of each run: ended, goes on, or nothing.
RUNS = {"ended": True, "goes-on": False}


@pytest.fixture
def engine(docker_engine: DockerPeer) -> Iterator[DockerPeer]:
    """Containers of runs and others, each named as what there is to know of it."""

    made: list[str] = []

    def make(name: str, run_id: str | None, deployment: str | None = DEPLOYMENT, command: str = "true") -> None:
        labels = {"dagster/run_id": run_id, "homelab/deployment": deployment}
        given = [word for label, value in labels.items() if value for word in ("--label", f"{label}={value}")]
        words = ("--name", name, "--network", "none", "--entrypoint", "/bin/sh", *given, IMAGE, "-c", command)
        docker_engine.docker("run", "--detach", *words)
        made.append(name)

    make("finished", "ended")
    make("finished-of-no-run", "forgotten")
    make("finished-of-a-run-that-goes-on", "goes-on")
    make("of-another-deployment", "ended", "another")
    make("of-no-deployment", "ended", None)
    make("no-run", None)
    docker_engine.docker("wait", *made)
    make("still-running", "ended", command="/bin/busybox sleep 600")
    yield docker_engine
    docker_engine.docker("rm", "--force", *(set(made) & set(docker_engine.containers())))


@pytest.fixture
def proxy(engine: DockerPeer) -> Iterator[str]:
    """The address of a proxy that only reaps."""
    proxy = Proxy(("127.0.0.1", 0), engine.host.removeprefix("unix://"), RULES, reaps=True)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    yield f"tcp://127.0.0.1:{proxy.server_address[1]}"
    proxy.shutdown()
    thread.join()
    proxy.server_close()


def reaped(address: str, older_than: timedelta = timedelta(0), dry_run: bool = False) -> Reaped:
    now = datetime.now(UTC) + timedelta(seconds=1)
    return reap([DockerWorkers(DEPLOYMENT, address)], RUNS.get, older_than, now, dry_run)


def named(done: Reaped) -> tuple[set[str], dict[str, str]]:
    return {each.name for each in done.removed}, {each.name: why for each, why in done.left}


FINISHED = {"finished", "finished-of-no-run"}


@pytest.mark.parametrize("through", ["engine", "proxy"])
def test_only_finished_containers_of_ended_runs_of_this_deployment_go(
    engine: DockerPeer, proxy: str, through: str
) -> None:
    address = engine.host if through == "engine" else proxy
    before = set(engine.containers())
    removed, left = named(reaped(address, timedelta(hours=1)))
    assert removed == set() and "not long enough ago" in left["finished"]
    assert named(reaped(address, dry_run=True))[0] == FINISHED
    assert set(engine.containers()) == before, "a preview removes nothing"
    removed, left = named(reaped(address))
    assert removed == FINISHED
    assert left == {
        "finished-of-a-run-that-goes-on": "its run has not ended",
        "still-running": "it is running",
    }
    assert set(engine.containers()) == before - FINISHED
    assert named(reaped(address))[0] == set()


def test_engine_that_does_not_answer_is_an_error_and_not_nothing() -> None:
    with pytest.raises(HousekeepingError, match="listing the run containers of reaped"):
        reaped("tcp://127.0.0.1:1")


def test_proxy_for_reaping_refuses_everything_else(engine: DockerPeer, proxy: str) -> None:
    api = docker.DockerClient(base_url=proxy).api
    listed = {name for each in api.containers(filters={"label": []}) for name in each["Names"]}
    assert listed == {"/finished", "/finished-of-no-run", "/finished-of-a-run-that-goes-on", "/still-running"}
    for refused, why in (
        (lambda: api.remove_container("still-running", force=True), "the container is running, not finished"),
        (lambda: api.remove_container("of-another-deployment"), "no run of this deployment"),
        (lambda: api.remove_container("no-run"), "no run of this deployment"),
        (lambda: api.inspect_container("of-no-deployment"), "no run of this deployment"),
        (lambda: api.start("finished"), "and nothing else"),
        (lambda: api.stop("still-running"), "and nothing else"),
        (lambda: api.logs("finished"), "and nothing else"),
        (lambda: api.create_container(IMAGE), "this call has no body"),
        (lambda: api.prune_containers(), "and nothing else"),
        (lambda: api.images(), "and nothing else"),
        (lambda: api.remove_image(IMAGE), "and nothing else"),
    ):
        with pytest.raises(docker.errors.APIError) as caught:
            refused()
        assert caught.value.status_code == 403 and why in str(caught.value.explanation)
    assert "still-running" in engine.containers()
