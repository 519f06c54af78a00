"""Every command of `homelab` doing what it says, on real servers and stores."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import jsonschema
import pytest
import yaml

from tests.integration.cli.conftest import Lab, homelab

pytestmark = pytest.mark.postgres


def test_init_writes_a_file_that_check_finds_no_mistake_in(tmp_path: Path) -> None:
    assert homelab(tmp_path, "init").status == 0
    assert homelab(tmp_path, "check").status == 0
    again = homelab(tmp_path, "init")
    assert again.status == 1 and "is there already" in again.err and "--force" in again.err
    (tmp_path / "homelab.yaml").write_text("homelab: mine\n")
    assert homelab(tmp_path, "init", "--force").status == 0
    assert (tmp_path / "homelab.yaml.old").read_text() == "homelab: mine\n"


def test_check_reports_all_mistakes_at_once_with_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "homelab.yaml").write_text(
        "homelab: home\ntimezone: Europe/Berlinn\nbackups:\n  schedle: '0 2 * * *'\n  compression: {zstd: 40}\n"
    )
    said = homelab(tmp_path, "check")
    assert said.status == 2
    for expected in ("homelab.yaml:2:11: ", "homelab.yaml:4:3: ", "homelab.yaml:5:23: ", "Europe/Berlin", "schedule"):
        assert expected in said.err
    problems = homelab(tmp_path, "check", "--json")
    assert problems.status == 2
    assert [set(each) for each in problems.json] == [{"file", "line", "column", "message", "hint"}] * 3
    assert [(each["file"], each["line"], each["column"]) for each in problems.json] == [
        ("homelab.yaml", 2, 11),
        ("homelab.yaml", 4, 3),
        ("homelab.yaml", 5, 23),
    ]


def test_check_connect_asks_every_server_target_and_key(lab: Lab) -> None:
    said = lab.run("check", "--connect")
    assert said.status == 0
    assert "ok     server main: PostgreSQL 15." in said.err and "2 databases: " in said.err
    assert f"ok     target nas: {lab.house.folder / 'nas'}" in said.err
    assert "ok     age identity: 1 found" in said.err


def test_check_connect_says_of_each_what_is_wrong_and_ends_with_1(lab: Lab, tmp_path: Path) -> None:
    data = yaml.safe_load(lab.house.inventory.read_text())
    data["databases"]["main"]["at"]["port"] = 1
    data["backups"]["targets"]["usb"]["require_mount"] = True
    data["backups"]["identity"] = {"file": "not-there"}
    (tmp_path / "homelab.yaml").write_text(yaml.safe_dump(data))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "password").write_text("x\n")
    said = homelab(tmp_path, "check", "--connect")
    assert said.status == 1
    for expected in ("FAILED server main: ", "refused", "FAILED target usb: ", "FAILED age identity: ", "not-there"):
        assert expected in said.err
    problems = homelab(tmp_path, "check", "--connect", "--json")
    assert problems.status == 1
    assert [each["message"].split(":")[0] for each in problems.json] == ["server main", "target usb", "age identity"]
    assert {key for each in problems.json for key in each} == {"file", "line", "column", "message", "hint"}


def test_schema_describes_the_inventory_of_a_house(lab: Lab) -> None:
    said = lab.run("schema")
    assert said.status == 0
    jsonschema.validate(yaml.safe_load(lab.house.inventory.read_text()), said.json)


def test_discover_lists_the_databases_that_the_patterns_choose(lab: Lab) -> None:
    assert sorted(lab.run("discover", "--json").json["main"]) == sorted([lab.photos, lab.odd])
    said = lab.run("discover")
    assert said.status == 0 and lab.photos in said.err


def test_mark_target_makes_a_mounted_folder_usable(lab: Lab, tmp_path: Path) -> None:
    data = yaml.safe_load(lab.house.inventory.read_text())
    data["backups"]["targets"]["usb"]["require_mount"] = True
    shutil.copytree(lab.house.folder / "secrets", tmp_path / "secrets")
    for name in ("nas", "usb"):
        (tmp_path / name).mkdir()
    (tmp_path / "homelab.yaml").write_text(yaml.safe_dump(data))
    assert homelab(tmp_path, "check", "--connect").status == 1
    assert homelab(tmp_path, "mark-target", "usb").status == 0
    assert homelab(tmp_path, "check", "--connect").status == 0
    unknown = homelab(tmp_path, "mark-target", "us")
    assert unknown.status == 2 and "'us' is not a directory target" in unknown.err


def test_backup_of_all_is_a_dagster_run_with_every_check_passed(lab: Lab) -> None:
    assert lab.first.status == 0, lab.first.err
    found = lab.first.json
    assert found["passed"] is True and found["run_id"]
    steps = {each["step"]: each for each in found["steps"]}
    assert all(each["passed"] for each in steps.values())
    assert f"database_backup/{lab.photos}: restorable" in steps
    assert "restored and equal" in steps[f"database_backup/{lab.photos}: restorable"]["description"]
    assert "backup_retention/nas: nothing_stops_pruning" in steps


def test_backup_of_a_name_backs_up_that_one_only_and_proves_it(lab: Lab) -> None:
    before = len(lab.run("backups", "--json").json)
    said = lab.run("backup", lab.odd)
    assert said.status == 0, said.err
    assert "restored and equal" in said.err and "succeeded" in said.err and lab.photos not in said.err
    rows = lab.run("backups", "--json").json
    assert len(rows) == before + 1
    assert (rows[0]["database"], rows[0]["status"]) == (lab.odd, "verified")


def test_backups_json_is_a_list_with_the_promised_fields(lab: Lab) -> None:
    said = lab.run("backups", "--json")
    assert said.status == 0 and said.err == ""
    row = next(each for each in said.json if each["database"] == lab.photos)
    assert row["source"] == f"main/{lab.photos}"
    assert row["status"] == "verified"
    assert row["targets"] == ["nas", "usb"]
    assert isinstance(row["bytes"], int) and row["bytes"] > 0
    taken, verified = (datetime.fromisoformat(row[name]) for name in ("taken_at", "verified_at"))
    assert taken.tzinfo is not None and taken < verified
    assert row["restore_seconds"] > 0
    assert row["id"].startswith(f"{taken:%Y%m%dT%H%M%SZ}")
    times = [each["taken_at"] for each in said.json]
    assert times == sorted(times, reverse=True)


def test_backups_table_says_restored_and_equal(lab: Lab) -> None:
    said = lab.run("backups", lab.photos)
    assert said.status == 0
    line = next(line for line in said.out.splitlines() if f"main/{lab.photos}" in line)
    assert "nas, usb" in line and "restored and equal" in line
    assert "@globals" not in said.out


def test_backups_from_a_folder_needs_no_inventory(lab: Lab, tmp_path: Path) -> None:
    said = homelab(tmp_path, "backups", "--from", str(lab.house.folder / "usb"), "--json")
    assert said.status == 0
    assert {each["source"] for each in said.json} >= {f"main/{lab.photos}", "main/@globals"}
    assert said.json[0]["targets"] == [str(lab.house.folder / "usb")]


def test_verify_of_a_name_restores_and_compares_it(lab: Lab) -> None:
    said = lab.run("verify", lab.photos, "--json")
    assert said.status == 0, said.err
    assert [(each["target"], each["result"], each["method"]) for each in said.json] == [
        ("nas", "equal", "restored"),
        ("usb", "equal", "same digest"),
    ]
    table = lab.run("verify", "main/@globals")
    assert table.status == 0 and "restored and equal" in table.out


def test_verify_of_a_damaged_copy_ends_with_1_and_names_it(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.house.folder, tmp_path / "house")
    dump = max((tmp_path / "house/nas/main" / lab.photos).glob("*/dump.*"))
    dump.write_bytes(dump.read_bytes()[:-1])
    said = homelab(tmp_path / "house", "verify", lab.photos, "--json")
    assert said.status == 1
    assert {each["target"]: each["result"] for each in said.json} == {"nas": "damaged", "usb": "equal"}
    shown = homelab(tmp_path / "house", "backups", lab.photos)
    assert "failed: nas: dump.pgc.zst.age has " in " ".join(shown.out.split())


def test_restore_into_a_new_database_of_the_inventorys_server(lab: Lab) -> None:
    new = f"{lab.photos}_copy"
    said = lab.run("restore", lab.photos, "--new-database", new, "--json")
    assert said.status == 0, said.err
    assert (said.json["database"], said.json["equal"], said.json["differences"]) == (new, True, [])
    assert lab.rows(new) == 1000
    again = lab.run("restore", lab.photos, "--new-database", new)
    assert again.status == 1 and "--replace" in again.err
    assert lab.rows(new) == 1000


def test_restore_with_replace_keeps_the_former_database_aside(lab: Lab) -> None:
    name = f"{lab.photos}_kept"
    lab.peer.create_database(name)
    with lab.peer.connect(name) as connection:
        connection.execute("CREATE TABLE item AS SELECT 1 AS n")
    said = lab.run("restore", lab.photos, "--new-database", name, "--replace", "--json")
    assert said.status == 0, said.err
    assert lab.rows(name) == 1000
    assert lab.rows(said.json["replaced"]) == 1


def test_restore_from_a_folder_with_the_key_alone(lab: Lab, tmp_path: Path) -> None:
    """In a disaster: an empty folder, no homelab.yaml, no Dagster; a store, a key and a server."""
    new = f"{lab.photos}_saved"
    peer = lab.peer
    said = homelab(
        tmp_path,
        *("restore", lab.photos, "--from", str(lab.house.folder / "nas")),
        *("--identity", str(lab.house.folder / "secrets/age")),
        *("--into", f"postgresql://{peer.user}@{peer.host}:{peer.port}/{new}"),
        PGPASSWORD=peer.password,
    )
    assert said.status == 0, said.err
    assert "found equal to its source" in said.err and lab.rows(new) == 1000
    assert list(tmp_path.iterdir()) == []


def test_restore_of_an_odd_name_by_its_own_name(lab: Lab) -> None:
    new = f"copy of {lab.odd}"
    dsn = f"postgresql://{lab.peer.user}@{lab.peer.host}:{lab.peer.port}/{quote(new, safe='')}"
    said = lab.run("restore", lab.odd, "--into", dsn, PGPASSWORD=lab.peer.password)
    assert said.status == 0, said.err
    assert lab.rows(new) == 1000


def test_restore_newest_copy_damaged_on_one_target_takes_the_good_one_and_says_so(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.house.folder, tmp_path / "house")
    max((tmp_path / "house/nas/main" / lab.photos).glob("*/dump.*")).unlink()
    said = homelab(tmp_path / "house", "restore", lab.photos, "--new-database", f"{lab.photos}_good", "--json")
    assert said.status == 0, said.err
    assert "note: " in said.err and "house/nas" in said.err and "is missing" in said.err
    assert said.json["equal"] is True


def test_prune_dry_run_explains_every_backup_and_deletes_none(lab: Lab) -> None:
    before = lab.run("backups", "--json").json
    said = lab.run("prune", "--dry-run", "--json")
    assert said.status == 0, said.err
    assert {each["target"] for each in said.json} == {"nas", "usb"}
    assert all(each["action"] in ("keep", "drop") and each["reason"] for each in said.json)
    assert "would free" in said.err
    assert lab.run("backups", "--json").json == before
    assert "last verified backup" in " ".join(lab.run("prune", "--dry-run").out.split())


def test_prune_drops_what_the_policy_lets_go(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.house.folder, tmp_path / "house")
    inventory = tmp_path / "house/homelab.yaml"
    data = yaml.safe_load(inventory.read_text())
    for target in data["backups"]["targets"].values():
        target["keep"] = {"last": 1}
    inventory.write_text(yaml.safe_dump(data))
    if sum(each["database"] == lab.odd for each in json.loads(lab.run("backups", "--json").out)) < 2:
        assert homelab(tmp_path / "house", "backup", lab.odd).status == 0
    said = homelab(tmp_path / "house", "prune", "--json")
    assert said.status == 0, said.err
    assert any(each["action"] == "drop" for each in said.json)
    left = [each for each in homelab(tmp_path / "house", "backups", "--json").json if each["database"] == lab.odd]
    assert len(left) == 1 and left[0]["status"] == "verified"


def test_verify_of_a_backup_whose_manifest_was_altered_ends_with_1_and_names_it(lab: Lab) -> None:
    record = lab.house.records("nas", f"main/{lab.photos}")[-1]
    path = lab.house.stored("nas", f"main/{lab.photos}", "manifest.json")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"rows": 1000', b'"rows": 1001'))
    try:
        for arguments in (("verify", lab.photos), ("verify", lab.photos, "--id", record.manifest.id)):
            said = lab.run(*arguments)
            assert said.status == 1, said
            assert f"{path}: its digest does not fit its contents: it was altered" in said.err
        path.unlink()
        said = lab.run("verify", lab.photos)
        assert said.status == 1
        assert f"{path}: it is missing" in said.err
    finally:
        path.write_bytes(whole)
    assert lab.run("verify", lab.photos).status == 0
