"""The engine's objects as an inventory describes them: connections, targets, keys, options. Reads secrets at use."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from homelab_pipelines.backup.errors import BackupError, ChoiceFailed, KeyMissing, SourceRefused, StoreRefused
from homelab_pipelines.backup.layout import ID_TIME, Source
from homelab_pipelines.backup.manifest import BackupRecord
from homelab_pipelines.backup.stores.addresses import store_for_target
from homelab_pipelines.backup.stores.base import BackupStore
from homelab_pipelines.inventory.databases import AtContainer, AtHost, AtPod, AtSocket, PostgresServer, is_name
from homelab_pipelines.inventory.loader import load, located
from homelab_pipelines.inventory.model import Homelab
from homelab_pipelines.inventory.names import instance_names
from homelab_pipelines.inventory.problems import findings_under
from homelab_pipelines.inventory.secrets import SecretError, SecretReference

INVENTORY_VARIABLE = "HOMELAB_INVENTORY"
HOME_VARIABLE = "HOMELAB_HOME"
REMEMBERED = "databases.json"
"""The file below the folder of state that says which databases each server was found to have."""


def inventory_path() -> Path:
    """The inventory file: HOMELAB_INVENTORY, else homelab.yaml in the working folder."""
    return Path(os.environ.get(INVENTORY_VARIABLE) or "homelab.yaml").absolute()


def state_home() -> Path:
    """The folder of all state: HOMELAB_HOME, else .homelab beside the inventory."""
    chosen = os.environ.get(HOME_VARIABLE)
    return Path(chosen).absolute() if chosen else inventory_path().parent / ".homelab"


@dataclass(frozen=True)
class Choice:
    """`present`: the databases that a server has now; `chosen`: those of them that are to be backed up.

    `fault` says what include and exclude cannot have been meant to choose; `chosen` is what they choose all the same.
    """

    present: list[str]
    chosen: list[str]
    fault: ChoiceFailed | None


@dataclass(frozen=True)
class ConfiguredBackups:
    """One homelab's backups: what the engine needs, made from its inventory when asked for.

    `inventory` is the file, where there is one: messages name places in it.
    """

    homelab: Homelab
    folder: Path
    home: Path
    inventory: Path | None = None

    @classmethod
    def from_environment(cls) -> ConfiguredBackups:
        """Read the inventory that the environment names. Raises InventoryInvalid with every problem."""
        return cls.read(inventory_path(), state_home())

    @classmethod
    def read(cls, inventory: Path, home: Path) -> ConfiguredBackups:
        """Read an inventory; `home` is the folder of all state. Raises InventoryInvalid with every problem."""
        return cls(load(inventory), inventory.parent, home, inventory)

    @cached_property
    def timezone(self) -> ZoneInfo:
        """The homelab's time zone."""
        return ZoneInfo(self.homelab.timezone)

    @property
    def _remembered(self) -> Path:
        return self.home / REMEMBERED

    # --- sources ---------------------------------------------------------------------------------------------------

    def server(self, name: str) -> PostgresServer:
        """The inventory's entry of a server."""
        return self.homelab.databases[name]

    def connection(self, name: str) -> Any:
        """How to reach a server. Raises SourceRefused when its password cannot be read."""
        from homelab_pipelines.backup.connection import Connection, Direct, InContainer, InPod  # lazy: psycopg

        server = self.server(name)
        match server.at:
            case AtHost(host=host, port=port):
                known = self.homelab.hosts.get(host)
                place: Any = Direct(known.address if known else host, port, server.sslmode)
            case AtSocket(socket=socket, port=port):
                place = Direct(socket, port, "disable")
            case AtContainer(container=container, docker_host=docker_host):
                place = InContainer(container, docker_host)
            case AtPod(pod=pod, namespace=namespace, context=context, pod_container=container):
                place = InPod(pod, namespace, context, container)
        try:
            password = self._secret(server.password)
        except SecretError as error:
            raise SourceRefused(f"reading the password of {name}", *error.why_and_next("homelab check")) from error
        return Connection(name, place, server.user, password, server.maintenance_database)

    def choice(self, name: str) -> Choice:
        """Ask a server for its databases, and choose by its patterns. Raises the error of a server that cannot say."""
        from homelab_pipelines.backup.server import databases  # lazy: psycopg

        server = self.server(name)
        present = databases(self.connection(name))
        findings = findings_under(("databases", name), server.choice_findings(present))
        problems = located(self.inventory or "homelab.yaml", findings)
        chosen = [each for each in present if server.selects(each)]
        return Choice(present, chosen, ChoiceFailed(name, problems) if problems else None)

    def discover(self) -> tuple[dict[str, list[str]], dict[str, BackupError]]:
        """Ask every server for the databases its patterns choose, and remember them for the asset graph.

        The second part says which servers did not answer (these keep what is known of them), and of which the patterns
        are wrong (ChoiceFailed). Raises the first error when no server answers and nothing is known of any.
        """
        known = self.known_databases()
        found: dict[str, list[str]] = {}
        failed: dict[str, BackupError] = {}
        for name in self.homelab.databases:
            try:
                choice = self.choice(name)
            except BackupError as error:
                failed[name] = error
                found[name] = known.get(name, [])
                continue
            found[name] = choice.chosen
            if choice.fault is not None:
                failed[name] = choice.fault
        silent = [error for error in failed.values() if not isinstance(error, ChoiceFailed)]
        if silent and len(silent) == len(found) and not any(found.values()):
            raise silent[0]
        self.remember(found)
        return found, failed

    def known_databases(self) -> dict[str, list[str]]:
        """The databases of each server: what its patterns name literally, and what was found last time."""
        remembered = self._read_remembered()
        known: dict[str, list[str]] = {}
        for name, server in self.homelab.databases.items():
            literal = [pattern for pattern in server.include if is_name(pattern)]
            names = dict.fromkeys([*remembered.get(name, []), *literal])
            if names:
                known[name] = [each for each in names if server.selects(each)]
        return known

    def _read_remembered(self) -> dict[str, list[str]]:
        """What was found last time; nothing where the file is not there, or is not what `remember` writes."""
        try:
            remembered = json.loads(self._remembered.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(remembered, dict):
            return {}
        return {
            server: names
            for server, names in remembered.items()
            if isinstance(names, list) and all(isinstance(name, str) for name in names)
        }

    def remember(self, found: dict[str, list[str]]) -> bool:
        """Keep what was found; whether it is news."""
        if found == self.known_databases() and self._remembered.exists():
            return False
        self.home.mkdir(parents=True, exist_ok=True)
        aside = self._remembered.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(found, indent=1))  # ASCII: a name may hold any character
        aside.replace(self._remembered)
        return True

    def instances(self, databases: Mapping[str, Iterable[str]] | None = None) -> dict[str, Source]:
        """Every database (those known now, or those given) by the name its assets have, in the inventory's order."""
        named = instance_names(self.known_databases() if databases is None else databases)
        return {instance: Source(server, database) for (server, database), instance in named.items()}

    def find_source(self, name: str) -> Source | None:
        """The source meant by an asset's name, a source id, `server/database`, or a database's name; else None.

        A name that several servers have means the asset of that name, which is the first server's.
        """
        instances = self.instances()
        if name in instances:
            return instances[name]
        sources = self.sources()
        meant = [source for source in sources if name in (source.id, f"{source.server}/{source.database}")]
        meant += [source for source in sources if source.database == name]
        return meant[0] if meant else None

    def sources(self) -> list[Source]:
        """Everything that is backed up: every database, then the globals of every server."""
        return [*self.instances().values(), *(Source(server, None) for server in self.homelab.databases)]

    # --- targets ---------------------------------------------------------------------------------------------------

    def store(self, name: str) -> BackupStore:
        """The store of a target. Raises StoreRefused when its credentials cannot be read."""
        try:
            return store_for_target(name, self.homelab.backups.targets[name], self.folder)
        except SecretError as error:
            raise StoreRefused(f"reading the credentials of {name}", *error.why_and_next("homelab check")) from error

    def open_stores(self) -> tuple[dict[str, BackupStore], dict[str, BackupError]]:
        """The stores by target, and why the others cannot be opened: one that is wrong does not stop the others."""
        opened: dict[str, BackupStore] = {}
        failed: dict[str, BackupError] = {}
        for name in self.homelab.backups.targets:
            try:
                opened[name] = self.store(name)
            except BackupError as error:
                failed[name] = error
        return opened, failed

    def targets(self) -> tuple[list[Any], dict[str, BackupError]]:
        """Every target, with its floor, as a capture takes them, and why the others cannot be used.

        Raises the error of the first when none can.
        """
        from homelab_pipelines.backup.fan_out import Target

        opened, failed = self.open_stores()
        if failed and not opened:
            raise next(iter(failed.values()))
        floors = {name: target.floor for name, target in self.homelab.backups.targets.items()}
        return [Target(store, floors[name]) for name, store in opened.items()], failed

    def copies(
        self, source: Source, backup_id: str | None = None
    ) -> tuple[dict[str, tuple[BackupStore, BackupRecord]], dict[str, BackupError]]:
        """The newest backup of a source (or the one asked for) on every target that holds it.

        The second part says which targets could not be read, or hold one that is newer or the same but whose manifest
        is not valid. Raises the error of the first when none can be read.
        """
        from homelab_pipelines.backup.records import Listing, list_store, unreadable

        opened, failed = self.open_stores()
        listed: dict[str, Listing] = {}
        for name, store in opened.items():
            try:
                listed[name] = list_store(store, source.id)
            except BackupError as error:
                failed[name] = error
        if failed and not listed:
            raise next(iter(failed.values()))
        ids = {record.manifest.id: record.taken_at for listing in listed.values() for record in listing.backups}
        wanted = backup_id or max(ids, key=lambda each: ids[each], default=None)
        copies = {
            name: (opened[name], record)
            for name, listing in listed.items()
            for record in listing.backups
            if record.manifest.id == wanted
        }
        for name, listing in listed.items():
            for leftover in listing.leftovers:
                # One without any manifest may just be written, unless another target has it whole.
                same = leftover.backup_id == wanted
                newer = wanted is None or leftover.backup_id[:ID_TIME] >= wanted[:ID_TIME]
                if same or (leftover.unreadable is not None and newer and backup_id is None):
                    failed[name] = unreadable(opened[name], leftover)
        return copies, failed

    # --- how -------------------------------------------------------------------------------------------------------

    def capture_options(self, server: str) -> Any:
        """Compression, encryption and limits of a capture."""
        from homelab_pipelines.backup.capture import CaptureOptions  # lazy: psycopg, zstandard
        from homelab_pipelines.backup.pipeline import Encoding

        backups, source = self.homelab.backups, self.server(server)
        return CaptureOptions(
            Encoding(backups.compression.zstd, tuple(backups.encrypt_to)), source.content_hash_up_to, source.lock_wait
        )

    def identities(self) -> list[Any]:
        """The age identities that open backups; none when nothing is encrypted. Raises KeyMissing."""
        from homelab_pipelines.backup.unpack import parse_identities

        try:
            text = self._secret(self.homelab.backups.identity)
        except SecretError as error:
            why, _ = error.why_and_next()
            raise KeyMissing("reading backups.identity", why, "put the key there, or pass --identity FILE") from error
        return parse_identities(text) if text is not None else []

    def scratch_choice(self, server: str) -> Any:
        """Where restores of a server's backups are tried."""
        from homelab_pipelines.backup.verify import ScratchChoice

        source = self.server(server)
        verify = source.verify
        return ScratchChoice(
            verify.method,
            verify.image,
            source.at.docker_host if isinstance(source.at, AtContainer) else None,
            self.connection(verify.server) if verify.server else None,
            Path(verify.scratch) if verify.scratch else None,
            jobs=max(1, os.cpu_count() or 1),
        )

    def _secret(self, reference: SecretReference | None) -> str | None:
        return None if reference is None else reference.read(self.folder)
