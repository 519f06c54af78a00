"""A new database while Dagster runs: whoever found it first, it is told of, and the code location is loaded anew."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from homelab_pipelines.commands.up import Graph
from homelab_pipelines.local_deployment import Deployment, graphql, launch, run_state, running
from homelab_pipelines.schedules.alerts import failed_checks
from tests.integration.cli.conftest import homelab
from tests.integration.house import House, fill
from tests.peers.ports import free_port
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.postgres


@dataclass
class Followed:
    """A deployment, and what keeps its graph true, as `homelab up` calls it every second."""

    house: House
    deployment: Deployment
    instance: dg.DagsterInstance
    graph: Graph
    photos: str

    def assets(self) -> set[str]:
        """The databases that have a backup in the graph that is loaded."""
        nodes = graphql(self.deployment, "{ assetNodes { assetKey { path } } }")["assetNodes"]
        return {node["assetKey"]["path"][1] for node in nodes if node["assetKey"]["path"][0] == "database_backup"}


@pytest.fixture
def followed(tmp_path: Path, peer: PostgresPeer) -> Iterator[Followed]:
    photos = f"photos_{secrets.token_hex(4)}"
    peer.create_database(photos)
    fill(peer, photos, 10)
    changes = {"databases": {"main": {"include": [f"{photos}*"]}}, "backups": {"targets": {"usb": None}}}
    house = House(tmp_path / "house", peer, [], changes)
    house.configured().discover()
    deployment = Deployment(house.inventory, house.home, free_port())
    graph = Graph(deployment, house.configured().known_databases())
    with running(deployment), house.instance() as instance:
        yield Followed(house, deployment, instance, graph, photos)
    with peer.connect() as connection:
        found = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", (f"{photos}%",)).fetchall()
    for (name,) in found:
        peer.drop_database(name)


def test_new_database_found_by_another_command_is_missed_aloud_and_then_followed(
    followed: Followed, peer: PostgresPeer, capfd: pytest.CaptureFixture[str]
) -> None:
    assert followed.assets() == {followed.photos}
    new = f"{followed.photos}_new"
    peer.create_database(new)
    fill(peer, new, 10)
    assert homelab(followed.house.folder, "discover").status == 0
    assert new in followed.house.configured().known_databases()["main"], "the file knows it, the graph does not"

    run_id = launch(followed.deployment, "nightly_backup")
    wait(followed, run_id)
    assert [line for line in failed_checks(followed.instance, run_id) if "every_database_is_backed_up" in line] == [
        line for line in failed_checks(followed.instance, run_id) if f"no backup of '{new}' yet" in line
    ]
    assert any(new in line for line in failed_checks(followed.instance, run_id)), "a run of the old graph says so"

    followed.graph.look()
    assert followed.assets() == {followed.photos, new}
    assert "reloaded: main: " in capfd.readouterr().err
    followed.graph.look()
    assert "reloaded" not in capfd.readouterr().err, "once is enough"
    run_id = launch(followed.deployment, "nightly_backup")
    wait(followed, run_id)
    assert list(failed_checks(followed.instance, run_id)) == []
    assert followed.house.records("nas", f"main/{new}") != []


def wait(followed: Followed, run_id: str) -> None:
    deadline = time.monotonic() + 90
    while not run_state(followed.deployment, run_id).ended:
        assert time.monotonic() < deadline, f"run {run_id} does not end"
        time.sleep(0.2)
    assert run_state(followed.deployment, run_id).status == "SUCCESS"
