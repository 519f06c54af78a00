"""Workers that end before they are done, by SIGTERM or `kill -9`: verifying, restoring over a database, pruning."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
import pyrage
import pytest
from psycopg import sql

from homelab_pipelines.backup.errors import StoreUnavailable
from homelab_pipelines.backup.foreign import reraise_interrupt
from homelab_pipelines.backup.layout import MANIFEST, backup_folder, new_backup_id, new_proof_name
from homelab_pipelines.backup.manifest import BackupRecord
from homelab_pipelines.backup.records import list_store
from homelab_pipelines.backup.scratch_folder import sweep_scratch
from homelab_pipelines.backup.stores.base import BackupStore, get, put
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.backup.stores.keys import UNFINISHED
from homelab_pipelines.backup.unpack import check_object
from homelab_pipelines.backup.verify import verify_backup
from tests.integration.backup.crash.house import Attempt, Ended, House, Place
from tests.integration.backup.crash.processes import Process, of_run, wait_for
from tests.integration.backup.crash.trial import Moments, Trial, chance
from tests.integration.backup.crash.worker import CLOUD, ENDED_EARLY, NAS

TIMES = 10
PROMPT_SECONDS = 15.0  # a target that does not let go of its object alone is waited for 5 s


def send_after(attempt: Attempt, seconds: float, number: signal.Signals) -> Ended:
    """Send the signal that long after the worker's start, and wait for its end."""
    time.sleep(max(0.0, attempt.at + seconds - time.monotonic()))
    with suppress(ProcessLookupError):
        os.kill(attempt.pid, number)
    return attempt.end()


def manifests(place: Place) -> int:
    """How many backups the directory target shows, without reading any."""
    store = place.stores[NAS]
    assert isinstance(store, DirectoryStore)
    return sum(MANIFEST in names for _, _, names in os.walk(store.root))  # passes over folders that go meanwhile


def test_worker_ended_by_sigterm_ends_promptly_and_tidies_up(house: House, place: Place) -> None:
    trial = Trial(house, place, chance()).begin()
    untidy = 0
    moments = trial.moments(TIMES)
    for moment in moments:
        moment = max(moment, 0.05)  # before it, the worker does not know yet what to do with a signal
        ended = send_after(house.start("backup", place), moment, signal.SIGTERM)
        assert ended.status in (0, ENDED_EARLY), ended
        assert ended.seconds - moment < PROMPT_SECONDS, ended
        moments.note(ended.status == ENDED_EARLY, ended.seconds)
        left = [each.folder for store in place.stores.values() for each in list_store(store).leftovers]
        left += house.s3.unfinished_uploads(place.bucket) + house.left_in_scratch()
        left += [path.name for path in place.root.rglob(f"{UNFINISHED}*")]
        if left:
            print(f"SIGTERM at {moment:.3f} s left {left}")
        untidy += bool(left)
        trial.look()
    # A signal that comes while something is being tidied up leaves the rest to the sweep.
    assert untidy <= TIMES // 2


def test_interrupt_inside_the_encryption_library_stays_an_interrupt() -> None:
    class Interrupted(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            sys.exit(ENDED_EARLY)

    recipient = pyrage.x25519.Identity.generate().to_public()
    with pytest.raises(pyrage.EncryptError) as caught:
        pyrage.encrypt_io(Interrupted(), io.BytesIO(), [recipient])
    with pytest.raises(KeyboardInterrupt):
        reraise_interrupt(caught.value)
    reraise_interrupt(pyrage.EncryptError("no such thing"))


def test_verification_with_a_dead_s3_server_records_the_proof_of_the_other_target(house: House, place: Place) -> None:
    assert house.start("capture", place, "small").end().status == 0
    copies = {name: (store, list_store(store).backups[0]) for name, store in place.stores.items()}
    house.s3.kill()
    try:
        with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{house.s3.port}"):
            verify_backup(copies, house.settings.identities, house.settings.choice)
    finally:
        house.s3.start()
    assert list_store(place.stores[NAS]).backups[0].status == "verified"
    assert list_store(place.stores[CLOUD]).backups[0].status == "unverified"


def test_verification_killed_leaves_no_scratch_server_running(house: House, place: Place) -> None:
    trial = Trial(house, place, chance(), database="small").begin()
    moments = Moments(trial.chance, 0.3, TIMES)  # from the moment that its scratch server is seen
    for moment in moments:
        attempt = house.start("verify", place, "small")
        server: list[Process] = []

        def has_a_server(attempt: Attempt = attempt, server: list[Process] = server) -> bool:
            server[:] = [
                each
                for each in of_run(attempt.run, attempt.pid, house.scratch)
                if each.folder.startswith(f"{house.scratch}/")
            ]
            return bool(server)

        wait_for(has_a_server, 20, "a scratch server")
        seen = time.monotonic() - attempt.at
        ended = send_after(attempt, seen + moment, signal.SIGKILL)
        assert ended.status in (0, -signal.SIGKILL), ended
        moments.note(ended.status != 0, ended.seconds - seen)
        # Before any sweep: the server ends by itself.
        trial.nothing_runs(attempt)
        sweep_scratch(house.scratch)
        assert house.left_in_scratch() == []
    trial.look()


@dataclass(frozen=True)
class Old:
    """A database with rows of its own, that a restore is to replace."""

    house: House
    name: str

    def make(self) -> None:
        with self.house.postgres.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(self.name)))
        with self.house.postgres.connect(self.name) as connection:
            connection.execute("CREATE TABLE mine AS SELECT n FROM generate_series(1, 1000) AS n")

    def holds_its_rows(self, name: str) -> bool:
        try:
            return bool(self.house.postgres.value("SELECT sum(n) FROM mine", name) == 500500)
        except psycopg.errors.UndefinedTable:
            return False

    def others(self, prefix: str) -> list[str]:
        return sorted(name for name in self.house.postgres.databases() if name.startswith(prefix))

    def drop_all(self) -> None:
        with self.house.postgres.connect() as connection:
            for name in self.others(self.name):
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def old(house: House) -> Iterator[Old]:
    """The database `archive`, which a worker's restore replaces."""
    database = Old(house, "archive")
    database.make()
    yield database
    database.drop_all()


def test_restore_over_a_database_killed_at_random_moments_leaves_the_old_or_the_new_one(
    house: House, place: Place, old: Old
) -> None:
    trial = Trial(house, place, chance(), database="small").begin()
    whole = house.start("restore", place, old.name).end()
    assert whole.status == 0, whole
    assert old.holds_its_rows(whole.outcome["replaced"])
    moments = Moments(trial.chance, whole.seconds, TIMES)
    for moment in moments:
        old.drop_all()
        old.make()
        attempt = house.start("restore", place, old.name)
        ended = send_after(attempt, moment, signal.SIGKILL)
        assert ended.status in (0, -signal.SIGKILL), ended
        trial.nothing_runs(attempt)
        aside = old.others(f"{old.name}_before_")
        if aside:
            assert [old.holds_its_rows(name) for name in aside] == [True]
            assert house.postgres.value("SELECT count(*) FROM photo", old.name) == 16
        else:
            assert old.holds_its_rows(old.name)
        moments.note(not aside, ended.seconds)
        trial.look()
    assert house.start("restore", place, old.name).end().status == 0
    assert old.others("homelab_restore_") == [], "the next restore drops what killed ones left"


def test_restore_over_a_database_killed_while_it_renames_leaves_the_old_one(
    house: House, place: Place, old: Old
) -> None:
    trial = Trial(house, place, chance(), database="small").begin()
    attempt = house.start("restore", place, old.name)
    wait_for(lambda: bool(old.others("homelab_restore_")), 20, "the temporary database")
    # A session on the temporary database holds up its renaming, for some seconds, after that of the old one.
    with house.postgres.connect(old.others("homelab_restore_")[0]):
        renaming = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%ALTER%RENAME%'"
        own = " AND pid <> pg_backend_pid()"
        wait_for(lambda: house.postgres.value(renaming + own) == 1, 20, "the renaming")
        os.kill(attempt.pid, signal.SIGKILL)
        assert attempt.end().status == -signal.SIGKILL
        assert old.holds_its_rows(old.name)
        wait_for(lambda: house.postgres.value(renaming + own) == 0, 20, "the end of the renaming")
    assert old.holds_its_rows(old.name)
    assert old.others(f"{old.name}_before_") == []
    trial.look(attempt)
    assert old.others("homelab_restore_") != []
    assert house.start("restore", place, old.name).end().status == 0
    assert old.others("homelab_restore_") == []


def test_prune_killed_at_random_moments_leaves_only_whole_backups(house: House, place: Place) -> None:
    trial = Trial(house, place, chance(), database="small").begin()
    many(place, 6)
    undisturbed = house.start("prune", place, "small").end()
    assert undisturbed.status == 0, undisturbed
    moments = Moments(trial.chance, 0.02, times=2)  # between the first deletion and the last
    for moment in moments:
        many(place, 6)
        before = {  # in the order of time: two of the same second have ids in any order
            name: [each.manifest.id for each in list_store(store).backups] for name, store in place.stores.items()
        }
        attempt = house.start("prune", place, "small")
        started = time.monotonic()
        while manifests(place) == len(before[NAS]) and time.monotonic() < started + 20:
            pass  # the first deletion is to be seen at once: all of them take some hundredths of a second
        seen = time.monotonic() - attempt.at
        ended = send_after(attempt, seen + moment, signal.SIGKILL)
        assert ended.status in (0, -signal.SIGKILL), ended
        left = 0
        for name, store in place.stores.items():
            records = list_store(store).backups
            for record in records:
                for stored in record.manifest.objects:
                    check_object(store, record.manifest, stored)
            assert before[name][-2:] == [record.manifest.id for record in records][-2:]
            left += len(records)
        moments.note(left > 2 * len(place.stores), ended.seconds - seen)
        trial.forget()
        trial.look(attempt)
    assert house.start("prune", place, "small").end().status == 0
    for store in place.stores.values():
        assert len(list_store(store).backups) == 2


def many(place: Place, number: int) -> None:
    """Copies of each store's newest backup, made to look older, and proven as that one is: a full store in no time."""
    for store in place.stores.values():
        newest = list_store(store).backups[-1]
        folder = backup_folder(newest.manifest.source, newest.manifest.id)
        contents = {each.name: get(store, f"{folder}/{each.name}") for each in newest.manifest.objects}
        for age in range(1, number + 1):
            older(store, newest, contents, timedelta(days=age))


def older(store: BackupStore, record: BackupRecord, contents: dict[str, bytes], by: timedelta) -> None:
    """A copy of a backup that was taken that much earlier."""
    taken_at = record.manifest.taken_at - by
    manifest = record.manifest.model_copy(update={"taken_at": taken_at, "id": new_backup_id(taken_at)})
    folder = backup_folder(manifest.source, manifest.id)
    for name, content in contents.items():
        put(store, f"{folder}/{name}", content)
    proof = record.latest_proof
    assert proof is not None
    put(store, f"{folder}/manifest.json", manifest.to_bytes())
    proven = proof.model_copy(update={"id": manifest.id})
    put(store, f"{folder}/{new_proof_name(datetime.now(UTC))}", proven.to_bytes())
