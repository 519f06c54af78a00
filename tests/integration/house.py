"""A homelab for tests: an inventory over a real server and two folders, and Dagster on it in this process."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pyrage
import yaml

from homelab_pipelines.assets.errors import NETWORK_RETRIES
from homelab_pipelines.backup.configured import ConfiguredBackups
from homelab_pipelines.backup.manifest import BackupRecord
from homelab_pipelines.backup.records import list_store
from homelab_pipelines.definitions import build_definitions
from homelab_pipelines.inventory.loader import load
from homelab_pipelines.schedules.nightly_backup import JOB
from tests.peers.postgres import PostgresPeer

REPOSITORY = Path(__file__).parents[2]
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
# As the project's own policy, in a hurry.
RETRIES = dg.RetryPolicy(max_retries=NETWORK_RETRIES.max_retries, delay=0.2)
ODD = 'odd "näme" of/things'


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` put in, sections into sections; None removes a key."""
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def fill(peer: PostgresPeer, database: str, rows: int = 1000) -> None:
    """One table of `rows` rows."""
    with peer.connect(database) as connection:
        connection.execute(
            "CREATE TABLE item AS SELECT n, md5(n::text) AS word FROM generate_series(1, %s) AS n", (rows,)
        )


@dataclass
class House:
    """`folder` holds homelab.yaml, its secrets, the targets nas and usb, and below .homelab all state."""

    folder: Path
    peer: PostgresPeer
    databases: Sequence[str]
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        secrets = self.folder / "secrets"
        secrets.mkdir(parents=True)
        self.identity = str(pyrage.x25519.Identity.generate())
        self.write_secret("age", self.identity)
        self.write_secret("password", self.peer.password)
        for name in ("nas", "usb"):
            (self.folder / name).mkdir()
        self.write(self.changes)

    @property
    def inventory(self) -> Path:
        return self.folder / "homelab.yaml"

    @property
    def home(self) -> Path:
        return self.folder / ".homelab"

    def write_secret(self, name: str, value: str) -> None:
        path = self.folder / "secrets" / name
        path.write_text(f"{value}\n")
        path.chmod(0o600)

    def write(self, changes: dict[str, Any]) -> None:
        """Write the inventory, with `changes` over what tests usually want."""
        recipient = str(pyrage.x25519.Identity.from_str(self.identity).to_public())
        base = {
            "homelab": "test",
            "timezone": "Europe/Berlin",
            "owner": "team:home",
            "databases": {
                "main": {
                    "kind": "postgres",
                    "at": {"host": self.peer.host, "port": self.peer.port},
                    "user": self.peer.user,
                    "password": {"file": "secrets/password"},
                    "include": list(self.databases),
                }
            },
            "backups": {
                "schedule": "30 3 * * *",
                "compression": {"zstd": 1},
                "encrypt_to": [recipient],
                "identity": {"file": "secrets/age"},
                "targets": {
                    "nas": {"directory": "nas", "keep": {"last": 2}},
                    "usb": {"directory": "usb", "keep": {"last": 2}},
                },
            },
        }
        self.inventory.write_text(yaml.safe_dump(merged(base, changes), allow_unicode=True))

    def configured(self) -> ConfiguredBackups:
        return ConfiguredBackups(load(self.inventory), self.folder, self.home)

    def definitions(self) -> dg.Definitions:
        return build_definitions(self.configured(), str(self.inventory), retries=RETRIES)

    def instance(self) -> dg.DagsterInstance:
        """Dagster with the project's own settings and storage of this house."""
        home = self.home / "dagster"
        if not (home / "dagster.yaml").exists():
            home.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / "deploy/local/dagster.yaml", home)
        return dg.DagsterInstance.from_config(str(home))

    def run(
        self,
        instance: dg.DagsterInstance,
        definitions: dg.Definitions | None = None,
        on_event: Callable[[dg.DagsterEvent], None] = lambda event: None,
    ) -> dg.ExecuteInProcessResult:
        """The nightly job in this process; `on_event` is called between one event and the next."""
        run_id = dg.DagsterRun(job_name=JOB).run_id
        instance.add_event_listener(run_id, lambda entry: entry.dagster_event and on_event(entry.dagster_event))
        job = (definitions or self.definitions()).resolve_job_def(JOB)
        return job.execute_in_process(instance=instance, run_id=run_id, run_config=QUIET, raise_on_error=False)

    def records(self, target: str, source_id: str | None = None) -> list[BackupRecord]:
        """The backups of one target, oldest first."""
        return list_store(self.configured().store(target), source_id).backups

    def stored(self, target: str, source_id: str, name: str) -> Path:
        """The file of an object of the newest backup."""
        record = self.records(target, source_id)[-1]
        return next((self.folder / target / source_id / record.manifest.id).glob(name))


@contextmanager
def locked_table(peer: PostgresPeer, database: str) -> Iterator[Callable[[], None]]:
    """Hold a table so that a backup waits for it; gives a function that returns once one does."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    # What a transaction reads of pg_stat_activity never changes: another session looks.
    with peer.connect(database) as locker, peer.connect() as looker:
        locker.execute("BEGIN")
        locker.execute("LOCK TABLE item IN ACCESS EXCLUSIVE MODE")

        def come() -> None:
            deadline = time.monotonic() + 90
            while looker.execute(query, (database,)).fetchone() == (0,):
                assert time.monotonic() < deadline, "no backup comes to the table within 90 s"
                time.sleep(0.2)

        yield come
        locker.execute("ROLLBACK")


def checks(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Every check of a run, as `asset/instance check`."""
    return {f"{e.asset_key.to_user_string()} {e.check_name}": e for e in result.get_asset_check_evaluations()}


def failures(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """Why each failed step failed, by the step's name."""
    found = {}
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            said = data.user_failure_data.description if data.user_failure_data else None
            found[str(event.step_key)] = said or (data.error.message if data.error else "")
    return found


def skipped(result: dg.ExecuteInProcessResult) -> set[str]:
    """The steps that were held back."""
    begun = {str(event.step_key) for event in result.all_events if event.is_step_start}
    return {node.name for node in result.job_def.nodes} - begun


def retried(result: dg.ExecuteInProcessResult) -> set[str]:
    """The steps that were tried again."""
    return {str(event.step_key) for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"}
