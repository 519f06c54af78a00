"""The process that is killed: it has everything imported, and forks one worker for each task that it is told.

Run as a program, with JSON lines: the settings and then tasks come in, `started` and `ended` go out, and each worker
leaves its outcome in a file. Imports of an own test process would cost more than the task itself.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any
from zoneinfo import ZoneInfo

from homelab_pipelines.backup.capture import CaptureOptions, CaptureResult, capture_database
from homelab_pipelines.backup.connection import Connection, Direct
from homelab_pipelines.backup.errors import BackupError
from homelab_pipelines.backup.fan_out import Target
from homelab_pipelines.backup.pipeline import Encoding
from homelab_pipelines.backup.prune import prune
from homelab_pipelines.backup.records import list_store, read_backup
from homelab_pipelines.backup.restore import restore_database
from homelab_pipelines.backup.restored_copy import RestoreOptions
from homelab_pipelines.backup.stores.base import BackupStore
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.backup.stores.s3 import S3Store
from homelab_pipelines.backup.unpack import parse_identities
from homelab_pipelines.backup.verify import ScratchChoice, verify_backup
from homelab_pipelines.inventory.backups import Keep
from homelab_pipelines.inventory.databases import History

MARK = "HOMELAB_TEST_RUN"
"""The environment variable by which every process that a worker starts is found again."""
NAS, CLOUD = "nas", "cloud"
# sysexits.h: EX_SOFTWARE, EX_TEMPFAIL.
REFUSED, FAULT = 75, 70
ENDED_EARLY = 128 + signal.SIGTERM


@dataclass(frozen=True)
class Settings:
    """The servers and keys of all tasks."""

    postgres_port: int
    postgres_password: str
    endpoint: str
    access_key: str
    secret_key: str
    identity: str
    recipient: str
    scratch: str

    @property
    def connection(self) -> Connection:
        place = Direct("127.0.0.1", self.postgres_port, sslmode="disable")
        return Connection("main", place, user="postgres", password=self.postgres_password)

    @property
    def identities(self) -> list[Any]:
        return parse_identities(self.identity)

    @property
    def choice(self) -> ScratchChoice:
        return ScratchChoice(method="local", parent=Path(self.scratch))

    @functools.cache  # noqa: B019 (one Settings a process)
    def stores(self, root: str, bucket: str) -> dict[str, BackupStore]:
        """A folder and a bucket. The bucket's client tries twice only, so that a dead server is soon known to be."""
        cloud = S3Store(
            bucket,
            "house",
            CLOUD,
            access_key=self.access_key,
            secret_key=self.secret_key,
            endpoint=self.endpoint,
            connect_timeout=2,
            attempts=2,
        )
        cloud.client  # noqa: B018 (made before the fork: it takes longer than an upload, and holds no connection yet)
        return {NAS: DirectoryStore(root, NAS), CLOUD: cloud}


@dataclass(frozen=True)
class Task:
    """`what`: capture, backup (capture and verify), verify, restore or prune; `outcome` is the path of a file.

    `run` marks its processes.
    """

    what: str
    run: str
    root: str
    bucket: str
    outcome: str
    database: str = "app"


def main() -> None:
    settings = Settings(**json.loads(sys.stdin.readline()))
    for line in iter(sys.stdin.readline, ""):
        task = Task(**json.loads(line))
        settings.stores(task.root, task.bucket)
        pid = os.fork()
        if pid == 0:
            os._exit(_work(settings, task))
        _say({"started": pid})
        _say({"ended": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})


def _say(message: dict[str, int]) -> None:
    print(json.dumps(message), flush=True)


def _work(settings: Settings, task: Task) -> int:
    os.environ[MARK] = task.run
    signal.signal(signal.SIGTERM, _leave)
    status, outcome = 0, {}
    try:
        outcome = _TASKS[task.what](settings, task)
    except BackupError as error:
        status, outcome = REFUSED, {"error": type(error).__name__, "message": str(error), "retryable": error.retryable}
    except (SystemExit, KeyboardInterrupt):
        status = ENDED_EARLY
    except BaseException:
        status, outcome = FAULT, {"error": "fault", "message": traceback.format_exc()}
    Path(task.outcome).write_text(json.dumps(outcome))
    return status


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(ENDED_EARLY)


def _capture(settings: Settings, task: Task) -> dict[str, Any]:
    return {"missed": _captured(settings, task).missed}


def _captured(settings: Settings, task: Task) -> CaptureResult:
    stores = settings.stores(task.root, task.bucket)
    options = CaptureOptions(Encoding(zstd_level=1, recipients=(settings.recipient,)))
    return capture_database(settings.connection, task.database, [Target(store) for store in stores.values()], options)


def _backup(settings: Settings, task: Task) -> dict[str, Any]:
    result = _captured(settings, task)
    manifest, stores = result.manifest, settings.stores(task.root, task.bucket)
    copies = {name: (stores[name], read_backup(stores[name], manifest.source, manifest.id)) for name in result.written}
    proofs = verify_backup(copies, settings.identities, settings.choice)
    return {"missed": result.missed, "proofs": {proof.target: proof.result for proof in proofs}}


def _verify(settings: Settings, task: Task) -> dict[str, Any]:
    stores = settings.stores(task.root, task.bucket)
    newest = list_store(stores[NAS]).backups[-1]
    proofs = verify_backup({NAS: (stores[NAS], newest)}, settings.identities, settings.choice)
    return {"proofs": {proof.target: proof.result for proof in proofs}}


def _restore(settings: Settings, task: Task) -> dict[str, Any]:
    store = settings.stores(task.root, task.bucket)[NAS]
    options = RestoreOptions(replace=True, folder=Path(settings.scratch))
    newest = list_store(store).backups[-1]
    result = restore_database(settings.connection, task.database, store, newest, settings.identities, options)
    return {"differences": result.differences, "replaced": result.replaced}


def _prune(settings: Settings, task: Task) -> dict[str, Any]:
    deleted = {}
    for name, store in settings.stores(task.root, task.bucket).items():
        pruned = prune(
            store, Keep(last=2), {"main": History()}, ZoneInfo("UTC"), timedelta(hours=1), now=datetime.now(UTC)
        )
        deleted[name] = pruned.deleted
    return {"deleted": deleted}


_TASKS = {"capture": _capture, "backup": _backup, "verify": _verify, "restore": _restore, "prune": _prune}

if __name__ == "__main__":
    main()
