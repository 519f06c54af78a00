"""Databases of their own on the session's server, and the house that backs them up."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tests.integration.house import House, fill
from tests.peers.postgres import PostgresPeer, server_of


@pytest.fixture(scope="session")
def peer() -> PostgresPeer:
    """PostgreSQL 15, which a bare Debian machine has."""
    return server_of(15)


@pytest.fixture
def photos(peer: PostgresPeer) -> Iterator[str]:
    """A database with one table of 1000 rows."""
    name = f"photos_{secrets.token_hex(4)}"
    peer.create_database(name)
    fill(peer, name)
    yield name
    peer.drop_database(name)


@pytest.fixture
def house(tmp_path: Path, peer: PostgresPeer, photos: str) -> Callable[..., House]:
    """A house with the database `photos`; keywords replace parts of its inventory."""

    def made(**changes: Any) -> House:
        return House(tmp_path / "house", peer, [photos], changes)

    return made


@pytest.fixture
def stack_inventory(tmp_path: Path) -> Callable[[str], Path]:
    """The path of an inventory with one stack, `cloud`, whose Compose file has the text that is given."""

    def made(compose: str) -> Path:
        path = tmp_path / "homelab.yaml"
        path.write_text(
            "homelab: home\nhosts: {main: {address: 192.168.1.10}}\nstacks: {cloud: {path: cloud, host: main}}\n"
        )
        (tmp_path / "cloud").mkdir()
        (tmp_path / "cloud/compose.yaml").write_text(compose)
        return path

    return made


@pytest.fixture
def instance_of() -> Iterator[Callable[[House], dg.DagsterInstance]]:
    """Dagster instances that are closed afterwards."""
    opened: list[dg.DagsterInstance] = []

    def instance(house: House) -> dg.DagsterInstance:
        opened.append(house.instance())
        return opened[-1]

    yield instance
    for each in opened:
        each.dispose()
