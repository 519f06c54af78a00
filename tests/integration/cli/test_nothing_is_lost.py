"""Commands that write, or that choose for a person: what is there stays, and what was not chosen is named."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from homelab_pipelines.backup.layout import backup_folder, new_proof_name
from homelab_pipelines.backup.records import add_proof
from tests.integration.cli.conftest import Lab, homelab

pytestmark = pytest.mark.postgres


def test_init_force_keeps_every_former_file(tmp_path: Path) -> None:
    path = tmp_path / "homelab.yaml"
    for number in range(3):
        path.write_text(f"homelab: mine-{number}\n")
        assert homelab(tmp_path, "init", "--force").status == 0
    assert [(tmp_path / f"homelab.yaml.old{end}").read_text() for end in ("", ".2", ".3")] == [
        f"homelab: mine-{number}\n" for number in range(3)
    ]


def test_init_where_a_folder_stands_leaves_it_alone(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    (folder / "precious").mkdir(parents=True)
    said = homelab(tmp_path, "--inventory", str(folder), "init", "--force")
    assert said.status == 1 and "it is a folder" in said.err
    assert (folder / "precious").is_dir()
    said = homelab(tmp_path, "--inventory", str(tmp_path / "no/such/homelab.yaml"), "init")
    assert said.status == 1 and "there is no such folder" in said.err and "mkdir -p" in said.err


def test_init_in_a_locale_without_utf_8_writes_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert homelab(tmp_path / "a", "init").status == 0
    assert homelab(tmp_path / "b", "init", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0").status == 0
    assert (tmp_path / "a/homelab.yaml").read_bytes() == (tmp_path / "b/homelab.yaml").read_bytes()


@pytest.mark.parametrize("port", ["0", "-1", "99999"])
def test_up_with_an_impossible_port_is_a_wrong_call(tmp_path: Path, port: str) -> None:
    said = homelab(tmp_path, "up", f"--port={port}")
    assert said.status == 2 and "1<=x<=65535" in said.err


@pytest.mark.parametrize("content", ["[]", '{"main": null}', '{"main": [1]}', "{", "[" * 100_000])
def test_remembered_databases_of_another_form_are_no_obstacle(lab: Lab, tmp_path: Path, content: str) -> None:
    home = tmp_path / "state"
    home.mkdir()
    (home / "databases.json").write_text(content)
    assert lab.run("--home", str(home), "backups", "--json").status == 0


def test_backups_of_a_wrong_folder_is_an_error_that_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "wrong").mkdir()
    said = homelab(tmp_path, "backups", "--from", str(tmp_path / "wrong"))
    assert said.status == 1
    assert f"{tmp_path / 'wrong'}: nothing there is a backup" in said.err and "manifest.json" in said.err
    said = homelab(tmp_path, "backups", "--endpoint", "http://127.0.0.1:1")
    assert said.status == 2 and "--endpoint is of no use without --from" in said.err


@pytest.mark.parametrize(("name", "size"), [("", 0), ("x" * 64, 64), ("ä" * 32, 64)])
def test_restore_to_a_name_that_no_database_can_have_begins_nothing(lab: Lab, name: str, size: int) -> None:
    said = lab.run("restore", lab.photos, "--new-database", name)
    assert said.status == 1
    assert f"reading --new-database: the database's name has {size} bytes; PostgreSQL takes 1 to 63" in said.err


def test_restore_passes_over_a_backup_whose_proof_failed_and_says_so(lab: Lab) -> None:
    assert lab.run("backup", lab.photos).status == 0
    older, newest = lab.house.records("nas", f"main/{lab.photos}")[-2:]
    proof = newest.latest_proof
    assert proof is not None
    later = proof.checked_at + timedelta(seconds=1)
    changes = {"result": "different", "differences": ["table public.item: not equal"], "checked_at": later}
    name, written = new_proof_name(later), []
    for target in ("nas", "usb"):
        store = lab.house.configured().store(target)
        add_proof(store, proof.model_copy(update={**changes, "target": target}), name)
        written.append((store, f"{backup_folder(newest.manifest.source, newest.manifest.id)}/{name}"))
    passed_over, by_id = f"passed_{lab.photos}", f"by_id_{lab.photos}"
    try:
        said = lab.run("restore", lab.photos, "--new-database", passed_over)
        assert said.status == 0, said.err
        assert f"{newest.manifest.id}: its latest proof, of " in said.err and "failed (different)" in said.err
        assert f"{older.manifest.taken_at:%Y-%m-%d %H:%M:%S}" in said.err
        said = lab.run("restore", lab.photos, "--id", newest.manifest.id, "--new-database", by_id)
        assert said.status == 0 and "warning: " in said.err and "failed (different)" in said.err
    finally:
        for store, key in written:
            store.delete(key)
        for database in (passed_over, by_id):
            lab.peer.drop_database(database)


def test_verify_of_an_unknown_id_points_to_the_list(lab: Lab) -> None:
    said = lab.run("verify", lab.photos, "--id", "20200101T000000Z-abcdef")
    assert said.status == 1 and "next: homelab backups" in said.err
