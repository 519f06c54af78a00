"""The nightly job over three databases and two targets: what it leaves behind when all is well."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from homelab_pipelines.assets.errors import NETWORK_RETRIES
from homelab_pipelines.inventory.names import instance_names
from tests.integration.house import ODD, House, checks, failures, fill
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.postgres


@dataclass
class Night:
    """A house after its nightly run."""

    house: House
    instance: dg.DagsterInstance
    result: dg.ExecuteInProcessResult
    names: dict[str, str]
    """The asset's instance by the database's name."""

    def metadata(self, *key: str) -> dict[str, Any]:
        event = self.instance.get_latest_materialization_event(dg.AssetKey(list(key)))
        assert event is not None and event.asset_materialization is not None
        return dict(event.asset_materialization.metadata)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, peer: PostgresPeer) -> Iterator[Night]:
    unique = secrets.token_hex(4)
    databases = [f"photos_{unique}", f"files-{unique}", f"{ODD} {unique}"]
    for number, name in enumerate(databases, start=1):
        peer.create_database(name)
        fill(peer, name, rows=1000 * number)
    house = House(tmp_path_factory.mktemp("night") / "house", peer, databases)
    with house.instance() as instance:
        result = house.run(instance)
        names = {name: found for (_, name), found in instance_names({"main": databases}).items()}
        yield Night(house, instance, result, names)
    for name in databases:
        peer.drop_database(name)


def test_nightly_backup_succeeds_with_every_check_passed(night: Night) -> None:
    assert failures(night.result) == {}
    assert night.result.success
    backed_up = [f"database_backup/{name}" for name in night.names.values()]
    expected = {
        *(f"{key} {check}" for key in backed_up for check in ("on_every_target", "restorable")),
        *(f"{key} restored_within_promise" for key in backed_up),
        *(
            f"database_globals/main {check}"
            for check in ("on_every_target", "every_database_is_backed_up", "restorable", "restored_within_promise")
        ),
        "backup_retention/nas nothing_stops_pruning",
        "backup_retention/usb nothing_stops_pruning",
    }
    found = checks(night.result)
    assert set(found) == expected
    assert {name: each.description for name, each in found.items() if not each.passed} == {}


def test_nightly_backup_materializes_one_asset_for_each_thing(night: Night) -> None:
    made = {
        event.asset_key.to_user_string() for event in night.result.get_asset_materialization_events() if event.asset_key
    }
    assert made == {
        *(f"database/{name}" for name in night.names.values()),
        *(f"database_backup/{name}" for name in night.names.values()),
        "database_globals/main",
        "backup_retention/nas",
        "backup_retention/usb",
    }


def test_backup_metadata_are_numbers_that_plot_and_name_every_copy(night: Night) -> None:
    for number, instance in enumerate(night.names.values(), start=1):
        found = night.metadata("database_backup", instance)
        numbers = {name: value.value for name, value in found.items() if isinstance(value.value, (int, float))}
        assert {"bytes", "ratio", "duration_seconds", "throughput_bytes_per_second", "rows", "tables"} <= set(numbers)
        assert numbers["rows"] == 1000 * number
        assert numbers["bytes"] > 100 and numbers["ratio"] > 1 and numbers["duration_seconds"] > 0
        assert numbers["throughput_bytes_per_second"] > 0
        for target in ("nas", "usb"):
            assert f"| {target} | {night.house.folder / target}" in found["copies"].value
        assert "| public.item | " in found["evidence"].value
        assert isinstance(found["taken_at"], dg.TimestampMetadataValue)


def test_check_metadata_say_how_long_the_restore_took(night: Night) -> None:
    for name, evaluation in checks(night.result).items():
        if name.endswith("restorable"):
            assert float(str(evaluation.metadata["restore_seconds"].value)) > 0
            assert "local PostgreSQL 15" in str(evaluation.metadata["scratch"].value)
            assert "| usb | equal | same digest |" in str(evaluation.metadata["copies"].value)


def test_database_metadata_say_version_size_and_growth(night: Night, peer: PostgresPeer) -> None:
    name = next(iter(night.names))
    key = dg.AssetKey(["database", night.names[name]])
    before = night.metadata(*key.path)
    assert before["version"].value.startswith("15.")
    assert before["bytes"].value > 1_000_000 and before["growth_bytes"].value == 0
    with peer.connect(name) as connection:
        connection.execute("CREATE TABLE more AS SELECT n, repeat('x', 500) FROM generate_series(1, 2000) AS n")
        connection.execute("CHECKPOINT")
    assets = night.house.definitions()
    job = assets.resolve_job_def("nightly_backup")
    assert job.execute_in_process(instance=night.instance, asset_selection=[key]).success
    assert night.metadata(*key.path)["growth_bytes"].value > 900_000


def test_retention_metadata_explain_every_backup(night: Night) -> None:
    found = night.metadata("backup_retention", "nas")
    assert (found["kept"].value, found["dropped"].value, found["bytes_freed"].value) == (4, 0, 0)
    assert found["decisions"].value.count("last verified backup") == 4


def test_backups_are_encrypted_and_no_secret_stands_in_what_dagster_keeps(night: Night) -> None:
    secret_texts = [night.house.identity.encode(), night.house.peer.password.encode()]
    for path in Path(night.house.home).rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert [secret for secret in secret_texts if secret in content] == [], path
    for path in (night.house.folder / "nas").rglob("*.age"):
        assert path.read_bytes().startswith(b"age-encryption.org/v1")


def test_specs_are_as_agreed(tmp_path: Path, peer: PostgresPeer) -> None:
    """Groups, kinds, owners, freshness, pools and blocking of everything: a change here is one a person should see."""
    house = House(
        tmp_path / "house",
        peer,
        ["immich", "next-cloud"],
        {
            "backups": {
                "promise": {"age": "26h"},
                "targets": {
                    "usb": None,
                    "cloud": {
                        "s3": "s3://bucket",
                        "access_key": {"env": "S3_ACCESS_KEY"},
                        "secret_key": {"env": "S3_SECRET_KEY"},
                    },
                },
            },
            "alerts": {"to": [{"env": "NTFY_URL"}], "ping": {"env": "HEALTHCHECKS_URL"}},
            "hosts": {"nas": {"address": "192.168.1.20"}},
            "stacks": {"next-cloud": {"path": "stacks/nextcloud", "host": "nas"}},
        },
    )
    expected = Path(__file__).with_name("definitions.txt").read_text()
    assert "\n".join(described(house.definitions())) + "\n" == expected


def described(definitions: dg.Definitions) -> list[str]:
    """Every asset, check, job, schedule and sensor, one line each."""
    repository = definitions.get_repository_def()
    lines = []
    for node in repository.assets_defs_by_key.values():
        for spec in node.specs:
            policy = spec.freshness_policy
            window = getattr(policy, "fail_window", None)
            lines.append(
                f"asset {spec.key.to_user_string()}: step {node.op.name}, group {spec.group_name},"
                f" kinds {sorted(spec.kinds)}, owners {list(spec.owners)}, pool {node.op.pool},"
                f" fresh within {window.to_timedelta() if window else None},"
                f" after {sorted(dep.asset_key.to_user_string() for dep in spec.deps)}"
            )
        for check in node.check_specs:
            lines.append(
                f"check {check.asset_key.to_user_string()} {check.name}: step {node.op.name}, blocking {check.blocking}"
            )
    for asset_checks in repository.asset_checks_defs_by_key.values():
        for check in asset_checks.check_specs:
            lines.append(
                f"check {check.asset_key.to_user_string()} {check.name}: step {asset_checks.op.name},"
                f" blocking {check.blocking}"
            )
    lines += [f"job {job.name}" for job in repository.get_all_jobs() if not job.name.startswith("__")]
    lines += [
        f"schedule {each.name}: {each.cron_schedule} {each.execution_timezone}, {each.default_status.value}"
        for each in repository.schedule_defs
    ]
    lines += [f"sensor {each.name}: {each.default_status.value}" for each in repository.sensor_defs]
    return sorted(set(lines))


def test_schedule_asks_for_one_run_of_the_whole_job(night: Night) -> None:
    schedule = night.house.definitions().get_repository_def().get_schedule_def("nightly_backup_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 3 * * *", "Europe/Berlin")
    tick = datetime(2026, 12, 1, 3, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    with dg.build_schedule_context(night.instance, scheduled_execution_time=tick) as context:
        requests = schedule.evaluate_tick(context).run_requests
    assert requests is not None and len(requests) == 1
    assert schedule.job_name == "nightly_backup" and requests[0].asset_selection is None


def test_retries_of_the_project_wait_longer_each_time() -> None:
    assert NETWORK_RETRIES.max_retries == 2
    assert NETWORK_RETRIES.delay == 10
    assert NETWORK_RETRIES.backoff is dg.Backoff.EXPONENTIAL
