"""What must hold after something was killed: looked at behind the back of the engine, and through it."""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from homelab_pipelines.backup.layout import backup_folder
from homelab_pipelines.backup.manifest import BackupRecord
from homelab_pipelines.backup.prune import delete_backup, sweep
from homelab_pipelines.backup.records import Listing, list_store
from homelab_pipelines.backup.scratch_folder import sweep_scratch
from homelab_pipelines.backup.stores.base import BackupStore, Listed
from homelab_pipelines.backup.verify import ScratchChoice, verify_backup
from tests.integration.backup.crash.house import Attempt, Ended, House, Place
from tests.integration.backup.crash.processes import is_alive, of_run, wait_for
from tests.integration.backup.crash.worker import NAS

MOMENTS = 30
SETTLE_EVERY = 6
EARLIER = 2
ORPHAN_SECONDS = 15.0  # the server looks for a lost client every 5 s
# A moment after the end of a run hits nothing, and is drawn again; more often than this, time is measured wrongly.
DRAWS_A_HIT = 4


def chance() -> random.Random:
    """Random numbers whose seed is printed; HOMELAB_TEST_SEED repeats a run's moments."""
    seed = os.environ.get("HOMELAB_TEST_SEED") or secrets.token_hex(4)
    print(f"the moments come from HOMELAB_TEST_SEED={seed}")
    return random.Random(seed)


@dataclass
class Moments:
    """Random moments over `seconds`, until `times` of them came in time; those that did not are `too_late`.

    A run that was over before its moment tells how long a run takes while the machine is as busy as now.
    """

    chance: random.Random
    seconds: float
    times: int
    hits: int = 0
    too_late: int = 0

    def __iter__(self) -> Iterator[float]:
        while self.hits < self.times:
            draws = self.hits + self.too_late
            assert draws < DRAWS_A_HIT * self.times, f"only {self.hits} of {draws} moments came in time"
            yield self.chance.uniform(0, self.seconds)

    def note(self, hit: bool, seconds: float) -> None:
        """Whether the last moment came in time, and how long it would have had."""
        if hit:
            self.hits += 1
        else:
            self.too_late += 1
            self.seconds = seconds


@dataclass
class Trial:
    """One place, what was in it before each kill, and what has to be in it after."""

    house: House
    place: Place
    chance: random.Random
    what: str = "backup"
    database: str = "app"
    seconds: float = 0.0
    proven: set[str] = field(default_factory=set)
    _digests: dict[tuple[str, str], str] = field(default_factory=dict)

    def begin(self) -> Trial:
        """Two undisturbed runs: the earlier backups, and how long a run lasts."""
        ended = [self.run_undisturbed() for _ in range(EARLIER)]
        self.seconds = min(each.seconds for each in ended)
        return self

    def run_undisturbed(self) -> Ended:
        ended = self.house.start(self.what, self.place, self.database).end()
        assert ended.status == 0, ended
        self.look()
        return ended

    def moments(self, times: int) -> Moments:
        """Moments over the length of a run."""
        return Moments(self.chance, self.seconds, times)

    def at_random_moments(self, kill: Callable[[Attempt], str | None], judge: Callable[[Ended], bool]) -> Moments:
        """Kill at MOMENTS moments drawn over the length of a run; look at everything after each.

        `kill` tells whom it hit, None when it came too late; `judge` asserts on how the worker ended and tells whether
        the kill was in time.
        """
        moments = self.moments(MOMENTS)
        for moment in moments:
            attempt = self.house.start(self.what, self.place, self.database)
            time.sleep(max(0.0, attempt.at + moment - time.monotonic()))
            hit = kill(attempt) if is_alive(attempt.pid) else None
            ended = attempt.end()
            line = f"{moments.hits + 1}. at {moment:.3f} s of {moments.seconds:.3f}: {hit or 'too late'}: {ended}"
            print(line.partition("\n")[0])
            moments.note(judge(ended) and hit is not None, ended.seconds)
            self.house.postgres.restart()
            if self.house.s3.pid is None:
                self.house.s3.restart()
            self.look(attempt)
            if hit is not None and moments.hits % SETTLE_EVERY == 0:
                self.settle()
        return moments

    def look(self, attempt: Attempt | None = None) -> None:
        """Sweep, and see that there are only whole backups, the earlier ones among them, and nothing else at all."""
        if attempt is not None:
            self.nothing_runs(attempt)
        for name, store in self.place.stores.items():
            self._only_whole(name, list_store(store))
        now = datetime.now(UTC) + timedelta(seconds=2)  # S3 tells times in whole seconds
        for name, store in self.place.stores.items():
            sweep(store, timedelta(0), now)
            listing = list_store(store)
            self._only_whole(name, listing)
            assert listing.leftovers == []
            self._nothing_beside(name, store, listing)
        sweep_scratch(self.house.scratch)
        assert self.house.s3.unfinished_uploads(self.place.bucket) == []
        assert self.house.left_in_scratch() == []

    def nothing_runs(self, attempt: Attempt) -> None:
        """No process of the worker outlives it for long, and no session of it stays on the server."""

        def orphans() -> list[str]:
            return [str(each) for each in of_run(attempt.run, attempt.pid, self.house.scratch)]

        wait_for(lambda: not orphans(), ORPHAN_SECONDS, f"the end of {orphans()}")
        wait_for(self.house.postgres.has_no_session_of_ours, ORPHAN_SECONDS, "the end of the killed worker's sessions")

    def _only_whole(self, name: str, listing: Listing) -> None:
        """Each listed backup has all its objects, and those listed earlier still are."""
        assert [record.damage for record in listing.backups if record.damage] == []
        unequal = [proof for record in listing.backups for proof in record.proofs if proof.result != "equal"]
        assert unequal == [], "what was interrupted says nothing of a backup"
        listed = {backup_folder(record.manifest.source, record.manifest.id) for record in listing.backups}
        earlier = {key.rpartition("/")[0] for key in self._known(name)}
        assert earlier <= listed, f"{name} has lost {sorted(earlier - listed)}"

    def _nothing_beside(self, name: str, store: BackupStore, listing: Listing) -> None:
        """What is stored is the backups' own; the digests of what is new are kept."""
        folders = {backup_folder(record.manifest.source, record.manifest.id) for record in listing.backups}
        objects = list(store.scan())
        strange = [each.key for each in objects if each.key.rpartition("/")[0] not in folders]
        if name == NAS:
            files = (path.relative_to(self.place.root) for path in self.place.root.rglob("*") if path.is_file())
            strange += [str(file) for file in files if str(file.parent) not in folders]
        assert strange == [], f"what belongs to no backup on {name}: {strange}"
        known = self._known(name)
        assert known <= {each.key for each in objects}
        self._digests.update({(name, each.key): digest(store, each) for each in objects if each.key not in known})

    def _known(self, name: str) -> set[str]:
        return {key for store, key in self._digests if store == name}

    def listed(self) -> set[str]:
        """The ids of the backups on any target."""
        return {record.manifest.id for store in self.place.stores.values() for record in list_store(store).backups}

    def forget(self) -> None:
        """Let go of what was there earlier: some of it was pruned."""
        self._digests.clear()

    def settle(self) -> None:
        """Every object is as it was when first seen, and every listed backup restores and is equal.

        All but the two oldest are removed then: long lists would take most of the time.
        """
        copies: dict[str, dict[str, tuple[BackupStore, BackupRecord]]] = {}
        for name, store in self.place.stores.items():
            now = {(name, listed.key): digest(store, listed) for listed in store.scan()}
            assert {key: now.get(key) for key in self._digests if key[0] == name} == {
                key: value for key, value in self._digests.items() if key[0] == name
            }
            for record in list_store(store).backups:
                copies.setdefault(record.manifest.id, {})[name] = (store, record)
        settings = self.house.settings
        choice = ScratchChoice(method="server", server=settings.connection, parent=self.house.scratch)
        for number, (backup_id, where) in enumerate(sorted(copies.items())):
            if backup_id in self.proven:
                continue
            proofs = verify_backup(where, settings.identities, choice)
            assert [proof.result for proof in proofs] == ["equal"] * len(where), f"{backup_id}: {proofs}"
            self.proven.add(backup_id)
            for name, (store, record) in where.items() if number >= EARLIER else ():
                folder = backup_folder(record.manifest.source, backup_id)
                delete_backup(store, folder)
                self._digests = {
                    key: value
                    for key, value in self._digests.items()
                    if key[0] != name or not key[1].startswith(f"{folder}/")
                }
        self.look()


def digest(store: BackupStore, listed: Listed) -> str:
    """SHA-256 of one object as it is stored."""
    found = hashlib.sha256()
    with store.open(listed.key) as reader:
        while chunk := reader.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()
