"""A machine whose clock goes three days back (an empty battery, a wrong time server) and is mended later.

The source server and `homelab` are real; only what the system's clock tells them is not (libfaketime).
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from homelab_pipelines.backup.local_server import free_port, persistent_server
from homelab_pipelines.backup.programs import server_for
from homelab_pipelines.backup.scratch_folder import scratch_folder
from tests.integration.cli.conftest import Said, homelab
from tests.integration.house import House, fill
from tests.peers import missing
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.postgres
# What it starts is not preloaded with a library whose semaphores another user cannot open.
HOMELAB_ALONE = """
import os
for name in [name for name in os.environ if name.startswith(("LD_PRELOAD", "FAKETIME"))]:
    del os.environ[name]
from homelab_pipelines.cli import main
main()
"""
NOW: Mapping[str, str] = {}
ONE = {"keep": {"last": 1}}


@pytest.fixture
def behind() -> dict[str, str]:
    """What in its environment sets a program's clock back."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        missing("libfaketime is not installed (apt install libfaketime)")
    return {"LD_PRELOAD": str(library), "FAKETIME": "-3d"}


Start = Callable[[dict[str, str]], AbstractContextManager[PostgresPeer]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the one server, each time with another environment."""
    port, password, installation = free_port(), secrets.token_urlsafe(12), server_for(15)
    with scratch_folder() as folder:
        folder.chmod(0o711)
        # The server alone gets the environment: what starts it is root's, whose semaphores a server cannot open.
        (folder / "bin").mkdir(mode=0o755)
        for program in installation.bin.iterdir():
            if program.name != "postgres":
                (folder / "bin" / program.name).symlink_to(program)

        @contextmanager
        def started(environment: dict[str, str]) -> Iterator[PostgresPeer]:
            words = " ".join(f"{name}={value}" for name, value in environment.items())
            program = folder / "bin/postgres"
            program.write_text(f'#!/bin/sh\nexec env {words} {installation.program("postgres")} "$@"\n')
            program.chmod(0o755)
            here = replace(installation, bin=program.parent)
            with persistent_server(here, folder / "server", port=port, password=password) as server:
                yield PostgresPeer(server, password)

        yield started


def run(house: House, behind: Mapping[str, str], *arguments: str) -> Said:
    """The command, with its clock set back or not."""
    if not behind:
        return homelab(house.folder, *arguments)
    return homelab(house.folder, *arguments, command=(sys.executable, "-c", HOMELAB_ALONE), **behind)


def backup(house: House, behind: Mapping[str, str] = NOW) -> tuple[Said, dict[str, str]]:
    """What a nightly run said, and the backups after it."""
    return run(house, behind, "backup"), backups(house)


def backups(house: House) -> dict[str, str]:
    """The id and status of every backup of the database."""
    found = run(house, NOW, "backups", "--json").json
    return {each["id"]: each["status"] for each in found if each["source"] == "main/photos"}


def test_clock_that_goes_backwards_costs_no_backup_and_is_told(
    behind: dict[str, str], start: Start, tmp_path: Path
) -> None:
    with start({}) as peer:
        peer.create_database("photos")
        fill(peer, "photos")
        house = House(tmp_path / "house", peer, ["photos"], {"backups": {"targets": {"nas": ONE, "usb": ONE}}})
        said, kept = backup(house)
        assert said.status == 0, said.err
        [(first, status)] = kept.items()
        assert status == "verified"

    with start(behind) as peer:
        said, kept = backup(house, behind)
        # The new one is proven; which of the two is older cannot be told by such a clock, and both stay.
        [second] = set(kept) - {first}
        assert second < first
        assert set(kept.values()) == {"verified"}
        assert said.status == 1
        for target in ("nas", "usb"):
            assert f"FAILED backup_retention/{target}: nothing_stops_pruning" in said.err
        assert f"backup {first} was taken at" in said.err
        assert "Next: set the clock right" in said.err
        assert run(house, behind, "prune").status == 1
        assert set(backups(house)) == {first, second}

    with start({}) as peer:
        with peer.connect("photos") as connection:
            connection.execute("DELETE FROM item WHERE n > 990")
        said, kept = backup(house)
        assert said.status == 0, said.err
        [(third, status)] = kept.items()
        assert third > first
        assert status == "verified"
