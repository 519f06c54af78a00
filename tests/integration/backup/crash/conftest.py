"""Servers of this folder's own, for they are killed here, and a place for the backups of each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pyrage
import pytest

from homelab_pipelines.backup.errors import ProgramMissing
from homelab_pipelines.backup.programs import server_for
from homelab_pipelines.backup.scratch_folder import default_parent, scratch_folder
from tests.integration.backup.crash.house import House, Place, fill, killable_postgres
from tests.peers import missing
from tests.peers.postgres import NEWEST
from tests.peers.s3 import S3Server, find_versitygw

MEGABYTES = 10  # more than one part of a multipart upload
MEMORY_BYTES = 4 << 30


def quick_folder() -> Path:
    """A folder in memory if there is room for what 120 killed backups leave, else on disk: seconds against minutes."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK | os.X_OK) and shutil.disk_usage(memory).free > MEMORY_BYTES:
        return memory
    return default_parent()


@pytest.fixture(scope="session")
def house() -> Iterator[House]:
    """PostgreSQL with the databases `app` (10 MB) and `small`, an S3 server, and a worker's parent."""
    if not Path("/proc/self/task").is_dir():
        missing("the kill tests look for processes in /proc, which this system has not")
    try:
        installation = server_for(NEWEST)
    except ProgramMissing as error:
        missing(str(error))
    with ExitStack() as stack:
        # A scratch folder: if the tests are killed, the next sweep removes it.
        folder = stack.enter_context(scratch_folder(quick_folder())).resolve()
        folder.chmod(0o711)
        (folder / "scratch").mkdir(mode=0o711)
        (folder / "s3").mkdir()
        postgres = stack.enter_context(killable_postgres(installation, folder / "postgres"))
        s3 = S3Server(find_versitygw(), folder / "s3")
        s3.start()
        stack.callback(s3.stop)
        fill(postgres, "app", MEGABYTES)
        fill(postgres, "small", 1)
        identity = pyrage.x25519.Identity.generate()
        house = House(folder, postgres, s3, (str(identity), str(identity.to_public())))
        stack.callback(house.close)
        yield house


@pytest.fixture
def place(house: House) -> Iterator[Place]:
    """An empty folder and an empty bucket; both are emptied afterwards, for they grow large."""
    bucket = house.s3.make_bucket()
    root = house.folder / "nas" / bucket
    root.mkdir(parents=True)
    yield Place(root, bucket, house.settings.stores(str(root), bucket))
    shutil.rmtree(root)
    shutil.rmtree(house.s3.data / bucket)
