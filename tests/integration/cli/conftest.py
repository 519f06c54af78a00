"""The real `homelab` command as a process of its own, in a house whose backups it made itself."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.house import ODD, House, fill
from tests.peers.postgres import PostgresPeer, server_of

HOMELAB = str(Path(sys.executable).parent / "homelab")


@dataclass(frozen=True)
class Said:
    """What a command ended with."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def homelab(folder: Path, *arguments: str, command: Sequence[str] = (HOMELAB,), **environment: str) -> Said:
    """Run `homelab` in a folder. It must never show a traceback. `command` is another way to start it."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("HOMELAB_", "PG", "AWS_", "DAGSTER"))
    }
    done = subprocess.run(
        (*command, *arguments), cwd=folder, env={**clean, **environment}, capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Said(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Lab:
    """A house with two proven backups of each database."""

    house: House
    photos: str
    odd: str
    first: Said

    def run(self, *arguments: str, **environment: str) -> Said:
        return homelab(self.house.folder, *arguments, **environment)

    @property
    def peer(self) -> PostgresPeer:
        return self.house.peer

    def rows(self, database: str) -> int:
        with self.peer.connect(database) as connection:
            row = connection.execute("SELECT count(*) FROM item").fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    peer = server_of(15)
    unique = secrets.token_hex(4)
    photos, odd = f"photos_{unique}", f"{ODD} {unique}"
    for name in (photos, odd):
        peer.create_database(name)
        fill(peer, name)
    house = House(tmp_path_factory.mktemp("cli") / "house", peer, [photos, odd])
    yield Lab(house, photos, odd, homelab(house.folder, "backup", "--json"))
    with peer.connect() as connection:
        found = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", (f"%{unique}%",)).fetchall()
    for (name,) in found:
        peer.drop_database(name)
