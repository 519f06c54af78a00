"""Every check says so when the thing is broken, and what rests on it is held back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import dagster as dg
import pytest

from homelab_pipelines.backup.manifest import Manifest
from tests.integration.house import House, checks, failures, retried, skipped
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.postgres
Houses = Callable[..., House]
Instances = Callable[[House], dg.DagsterInstance]


@dataclass
class After:
    """Does something once, between the backup of a database and its check."""

    database: str
    act: Callable[[], None]
    done: bool = False

    def __call__(self, event: dg.DagsterEvent) -> None:
        key = event.asset_key
        if event.is_step_materialization and key and key.path == ["database_backup", self.database] and not self.done:
            self.done = True
            self.act()


def flip_a_bit(house: House, target: str, photos: str) -> None:
    path = house.stored(target, f"main/{photos}", "dump.*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_restorable_stored_copy_damaged_fails_and_holds_retention_back(
    house: Houses, instance_of: Instances, photos: str
) -> None:
    here = house()
    result = here.run(instance_of(here), on_event=(after := After(photos, lambda: flip_a_bit(here, "usb", photos))))
    assert after.done
    verdict = checks(result)[f"database_backup/{photos} restorable"]
    assert not verdict.passed
    assert "on usb is damaged: dump.pgc.zst.age: " in verdict.description and "SHA-256" in verdict.description
    assert " on nas " not in verdict.description, "the good copy is not blamed"
    assert "Next: " in verdict.description
    assert not result.success
    assert skipped(result) == {"backup_retention__nas", "backup_retention__usb"}
    assert retried(result) == set(), "a damaged copy does not heal by itself"
    assert checks(result)["database_globals/main restorable"].passed, "others are still proven"


def test_restorable_other_content_than_recorded_fails_naming_the_table(
    house: Houses, instance_of: Instances, photos: str
) -> None:
    here = house(backups={"targets": {"usb": None}})

    def more_rows_in_the_evidence() -> None:
        path = here.stored("nas", f"main/{photos}", "manifest.json")
        manifest = Manifest.from_bytes(path.read_bytes(), "test")
        tables = [each.model_copy(update={"rows": 1001}) for each in manifest.evidence.tables]
        evidence = manifest.evidence.model_copy(update={"tables": tables})
        path.write_bytes(manifest.model_copy(update={"evidence": evidence}).to_bytes())

    result = here.run(instance_of(here), on_event=After(photos, more_rows_in_the_evidence))
    verdict = checks(result)[f"database_backup/{photos} restorable"]
    assert not verdict.passed
    assert "is different" in verdict.description and "public.item" in verdict.description
    assert "1001" in verdict.description and "1000" in verdict.description
    assert skipped(result) == {"backup_retention__nas"}


def test_restorable_no_scratch_server_fails_saying_what_was_tried(
    house: Houses, instance_of: Instances, photos: str
) -> None:
    here = house(databases={"main": {"verify": {"method": "container"}}}, backups={"targets": {"usb": None}})
    result = here.run(instance_of(here))
    why = failures(result)
    step = f"database_backup_restorable__{photos}"
    assert "no image is known; set verify.image" in why[step] and "next: " in why[step]
    assert retried(result) == set()
    assert skipped(result) == {"backup_retention__nas"}
    assert here.records("nas", f"main/{photos}")[0].status == "unverified", "nothing is known, so nothing is recorded"


def test_on_every_target_unmounted_target_fails_and_the_others_are_proven_and_pruned(
    house: Houses, instance_of: Instances, photos: str
) -> None:
    here = house(backups={"targets": {"usb": {"require_mount": True}}})
    result = here.run(instance_of(here))
    found = checks(result)
    missing = found[f"database_backup/{photos} on_every_target"]
    assert not missing.passed and "missing on usb: " in missing.description and "mount" in missing.description
    assert missing.metadata["missing"].value == 1
    proven = found[f"database_backup/{photos} restorable"]
    assert proven.passed and "the copy on usb could not be read" in proven.description
    assert found["backup_retention/nas nothing_stops_pruning"].passed
    assert set(failures(result)) == {"backup_retention__usb"}
    assert [record.status for record in here.records("nas", f"main/{photos}")] == ["verified"]


def test_on_every_target_secret_of_one_target_missing_does_not_stop_the_others(
    house: Houses, instance_of: Instances, photos: str
) -> None:
    keys = {"access_key": {"env": "NOBODY_SET_THIS"}, "secret_key": {"env": "NOBODY_SET_THIS_EITHER"}}
    here = house(backups={"targets": {"usb": None, "cloud": {"s3": "s3://bucket", **keys}}})
    result = here.run(instance_of(here))
    missing = checks(result)[f"database_backup/{photos} on_every_target"]
    assert not missing.passed and "missing on cloud: " in missing.description
    assert "NOBODY_SET_THIS" in missing.description
    assert checks(result)[f"database_backup/{photos} restorable"].passed
    assert retried(result) == set()


def test_every_database_is_backed_up_new_database_fails_until_it_is_discovered(
    house: Houses, instance_of: Instances, photos: str, peer: PostgresPeer
) -> None:
    here = house(databases={"main": {"include": [f"{photos}*"]}}, backups={"targets": {"usb": None}})
    instance = instance_of(here)
    here.configured().discover()
    definitions = here.definitions()
    new = peer.create_database(f"{photos}_new")
    try:
        verdict = checks(here.run(instance, definitions))["database_globals/main every_database_is_backed_up"]
        assert not verdict.passed
        assert f"no backup of '{new.name}' yet" in verdict.description and "homelab discover" in verdict.description
        here.configured().discover()
        found = checks(here.run(instance))
        assert found["database_globals/main every_database_is_backed_up"].passed
        assert found[f"database_backup/{new.name} restorable"].passed
    finally:
        peer.drop_database(new.name)


def test_restored_within_promise_tiny_promise_warns_with_both_times(
    house: Houses, instance_of: Instances, photos: str
) -> None:
    here = house(backups={"promise": {"restore_within": "0.001s"}, "targets": {"usb": None}})
    result = here.run(instance_of(here))
    verdict = checks(result)[f"database_backup/{photos} restored_within_promise"]
    assert not verdict.passed
    assert verdict.severity is dg.AssetCheckSeverity.WARN
    assert verdict.description.endswith("s of 0.001s promised")
    assert checks(result)[f"database_backup/{photos} restorable"].passed
    assert skipped(result) == set(), "a slow restore is still a proof"


def test_nothing_stops_pruning_rows_gone_fails_and_nothing_is_deleted(
    house: Houses, instance_of: Instances, photos: str, peer: PostgresPeer
) -> None:
    here = house(backups={"targets": {"usb": None, "nas": {"keep": {"last": 4}}}})
    instance = instance_of(here)
    for _ in range(4):
        assert here.run(instance).success
    with peer.connect(photos) as connection:
        connection.execute("DELETE FROM item")
    result = here.run(instance)
    verdict = checks(result)["backup_retention/nas nothing_stops_pruning"]
    assert not verdict.passed
    assert f"main/{photos}" in verdict.description and "0 rows" in verdict.description
    assert "1,000 rows" in verdict.description and "Next: " in verdict.description
    assert checks(result)[f"database_backup/{photos} restorable"].passed, "an empty table restores well"
    assert len(here.records("nas", f"main/{photos}")) == 5, "nothing was deleted"
    assert len(here.records("nas", "main/@globals")) == 4, "the other source is pruned as ever"


def test_restorable_altered_manifest_of_one_copy_fails_and_names_it(
    house: Houses, instance_of: Instances, photos: str
) -> None:
    here = house()

    def alter() -> None:
        path = here.stored("usb", f"main/{photos}", "manifest.json")
        path.write_bytes(path.read_bytes().replace(b'"rows": 1000', b'"rows": 1001'))

    result = here.run(instance_of(here), on_event=After(photos, alter))
    verdict = checks(result)[f"database_backup/{photos} restorable"]
    assert not verdict.passed
    assert "usb/main/" in verdict.description and "it was altered after it was written" in verdict.description
    assert skipped(result) == {"backup_retention__nas", "backup_retention__usb"}
