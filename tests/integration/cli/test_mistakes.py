"""What goes wrong is said in a sentence with a next step, never as a traceback; and what a command may import."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.integration.cli.conftest import Lab, homelab

pytestmark = pytest.mark.postgres


@pytest.mark.parametrize("command", ["backups", "verify", "prune", "discover", "backup", "check"])
def test_without_an_inventory_says_how_to_get_one(command: str, tmp_path: Path) -> None:
    said = homelab(tmp_path, command)
    assert said.status == 2
    assert "homelab.yaml: there is no such file" in said.err and "homelab init" in said.err
    assert list(tmp_path.iterdir()) == []


def test_restore_without_an_inventory_and_store_says_how_to_get_one(tmp_path: Path) -> None:
    said = homelab(tmp_path, "restore", "photos", "--new-database", "x")
    assert said.status == 2 and "there is no such file" in said.err


def test_restore_of_an_encrypted_backup_without_a_key_asks_for_it(lab: Lab, tmp_path: Path) -> None:
    arguments = ("restore", lab.photos, "--from", str(lab.house.folder / "nas"), "--into", dsn(lab, "never"))
    said = homelab(tmp_path, *arguments)
    assert said.status == 1
    assert "it is encrypted" in said.err and "--identity FILE" in said.err
    missing = homelab(tmp_path, *arguments, "--identity", "gone.key")
    assert missing.status == 1 and "gone.key: No such file" in missing.err


def test_restore_with_another_key_is_refused_and_leaves_no_database(lab: Lab, tmp_path: Path) -> None:
    import pyrage

    (tmp_path / "key").write_text(f"{pyrage.x25519.Identity.generate()}\n")
    name = f"{lab.photos}_never"
    said = homelab(
        tmp_path,
        *("restore", lab.photos, "--from", str(lab.house.folder / "nas"), "--into", dsn(lab, name)),
        *("--identity", "key"),
        PGPASSWORD=lab.peer.password,
    )
    assert said.status == 1 and "none of the given identities is one of its recipients" in said.err
    with lab.peer.connect() as connection:
        assert connection.execute("SELECT 1 FROM pg_database WHERE datname LIKE %s", (f"{name}%",)).fetchone() is None


@pytest.mark.parametrize(
    ("into", "expected"),
    [
        ("gar bage", "it is not a connection string"),
        ("postgresql://user@host:5432", "it names no database"),
        ("postgresql://user@127.0.0.1:port/x", "is not a port"),
        ("host=127.0.0.1 port=99999 dbname=x", "is not a port"),
        ("host=127.0.0.1 dbname=x sslrootcert=/ca", "sslrootcert cannot be said here"),
        ("postgresql://postgres@127.0.0.1:1/x", "refused"),
    ],
)
def test_restore_into_a_wrong_address_says_what_is_wrong_with_it(lab: Lab, into: str, expected: str) -> None:
    said = lab.run("restore", lab.photos, "--into", into)
    assert said.status == 1
    assert expected in said.err and "next: " in said.err


def test_restore_with_a_wrong_password_never_repeats_it(lab: Lab) -> None:
    peer = lab.peer
    into = f"postgresql://{peer.user}:secret-4711@{peer.host}:{peer.port}/x"
    said = lab.run("restore", lab.photos, "--into", into)
    assert said.status == 1
    assert "password authentication failed" in said.err and "secret-4711" not in said.err + said.out


def test_restore_says_where_to_or_is_refused(lab: Lab) -> None:
    said = lab.run("restore", lab.photos)
    assert said.status == 2 and "--into DSN or --new-database NAME" in said.err


@pytest.mark.parametrize("command", [("backup",), ("verify",), ("backups",), ("restore", "--new-database", "x")])
def test_unknown_name_is_an_error_that_says_what_there_is(lab: Lab, command: tuple[str, ...]) -> None:
    said = lab.run(command[0], "fotos", *command[1:])
    assert said.status == 1
    assert "'fotos'" in said.err and "next: homelab" in said.err


def test_unknown_id_is_an_error(lab: Lab) -> None:
    for command in (("verify",), ("restore", "--new-database", "x")):
        said = lab.run(command[0], lab.photos, "--id", "20000101T000000Z-000000", *command[1:])
        assert said.status == 1 and "20000101T000000Z-000000" in said.err
    assert lab.run("verify", "--id", "20000101T000000Z-000000").status == 2


def test_unreadable_store_is_said_and_the_others_are_listed(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.house.folder, tmp_path / "house")
    inventory = tmp_path / "house/homelab.yaml"
    data = yaml.safe_load(inventory.read_text())
    data["backups"]["targets"]["usb"]["require_mount"] = True
    inventory.write_text(yaml.safe_dump(data))
    said = homelab(tmp_path / "house", "backups", "--json")
    assert said.status == 1 and "usb" in said.err and "mount" in said.err
    assert {tuple(each["targets"]) for each in said.json} == {("nas",)}
    verified = homelab(tmp_path / "house", "verify", lab.photos, "--json")
    assert verified.status == 1 and "usb" in verified.err
    assert [each["result"] for each in verified.json] == ["equal"]
    gone = homelab(tmp_path, "backups", "--from", "not-there")
    assert gone.status == 1 and "there is no such folder" in gone.err


def test_dead_bucket_is_said_without_the_secret(lab: Lab, tmp_path: Path) -> None:
    said = homelab(
        tmp_path,
        *("backups", "--from", "s3://bucket/house", "--endpoint", "http://127.0.0.1:1"),
        AWS_ACCESS_KEY_ID="access",
        AWS_SECRET_ACCESS_KEY="secret-4711",
    )
    assert said.status == 1 and "127.0.0.1:1" in said.err and "secret-4711" not in said.err
    keyless = homelab(tmp_path, "backups", "--from", "s3://bucket/house")
    assert keyless.status == 1 and "AWS_ACCESS_KEY_ID" in keyless.err


def test_manifest_that_was_altered_is_said_and_not_listed(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.house.folder / "nas", tmp_path / "nas")
    manifest = next((tmp_path / "nas/main" / lab.photos).glob("*/manifest.json"))
    manifest.write_text(manifest.read_text().replace('"rows": 1000', '"rows": 1001'))
    said = homelab(tmp_path, "backups", "--from", "nas", "--json")
    assert said.status == 1
    assert "not listed, its manifest is not valid: its digest does not fit" in said.err
    assert f"main/{lab.photos}" not in {each["source"] for each in said.json if each["id"] == manifest.parent.name}


def test_server_with_a_wrong_password_ends_backup_with_1(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.house.folder / "secrets", tmp_path / "secrets")
    shutil.copy(lab.house.inventory, tmp_path)
    (tmp_path / "secrets/password").write_text("secret-4711\n")
    said = homelab(tmp_path, "discover")
    assert said.status == 1
    assert "password authentication failed" in said.err and "next: " in said.err and "secret-4711" not in said.err


def test_secret_file_open_to_all_is_warned_of_in_one_line(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.house.folder / "secrets", tmp_path / "secrets")
    (tmp_path / "nas").mkdir()
    (tmp_path / "usb").mkdir()
    shutil.copy(lab.house.inventory, tmp_path)
    (tmp_path / "secrets/password").chmod(0o644)
    said = homelab(tmp_path, "check", "--connect")
    warned = [line for line in said.err.splitlines() if "can be read by every user" in line]
    assert warned and all(line.startswith("warning: secret file ") for line in warned)
    assert "stacklevel" not in said.err and ".py:" not in said.err


# What a listing and a check must not pay for: Dagster most of all, then what only other commands need.
HEAVY = ("dagster", "boto3", "botocore", "psycopg", "pyrage", "zstandard", "rich", "grpc", "apprise")


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (("check", "--json"), {"pyrage"}),
        (("backups", "--json"), {"pyrage"}),
        (("restore", "fotos", "--new-database", "x"), {"pyrage", "psycopg", "zstandard", "rich"}),
    ],
)
def test_command_imports_no_more_than_it_needs(lab: Lab, arguments: tuple[str, ...], allowed: set[str]) -> None:
    program = (
        "import sys\n"
        "from homelab_pipelines.cli import main\n"
        "try:\n    main()\nfinally:\n    sys.stderr.write('LOADED ' + ' '.join(sys.modules))\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", program, *arguments), cwd=lab.house.folder, capture_output=True, text=True, timeout=60
    )
    loaded = done.stderr.partition("LOADED ")[2].split()
    assert "homelab_pipelines.inventory.loader" in loaded
    assert {name.partition(".")[0] for name in loaded} & set(HEAVY) <= allowed


def dsn(lab: Lab, database: str) -> str:
    return f"postgresql://{lab.peer.user}@{lab.peer.host}:{lab.peer.port}/{database}"
