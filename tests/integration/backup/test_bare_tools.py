"""A backup can be restored with nothing but age, zstd and PostgreSQL's own programs: by the manifest's own commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from homelab_pipelines.backup.evidence import roles
from homelab_pipelines.backup.layout import backup_folder
from homelab_pipelines.backup.local_server import scratch_server
from homelab_pipelines.backup.manifest import Manifest
from homelab_pipelines.backup.programs import client_for
from homelab_pipelines.backup.restored_copy import RestoreOptions, compare_restored
from homelab_pipelines.backup.session import connect
from homelab_pipelines.backup.stores.directory import DirectoryStore
from tests.integration.backup.conftest import Key, capture, connection_to, restore, verify
from tests.peers import missing
from tests.peers.postgres import PostgresPeer, fill_example, server_of

pytestmark = pytest.mark.postgres
SECRET = "super-secret-jwt-4711"


@pytest.mark.parametrize(("major", "encrypted"), [(15, True), (18, True), (17, False)])
def test_commands_of_the_manifest_restore_the_database(
    major: int, encrypted: bool, nas: DirectoryStore, key: Key, tmp_path: Path
) -> None:
    for program in ("age", "zstd"):
        if shutil.which(program) is None:
            missing(f"{program} is not installed: apt install {program}")
    server = server_of(major)
    database = server.create_database()
    fill_example(database.dsn)
    with database.connect() as connection:
        connection.execute(f"COMMENT ON DATABASE {database.name} IS E'it''s $HOME \\n `new`'".encode())
        setting = f"SET \"app.settings.jwt_secret\" = E'{SECRET} \\\\ it''s\\nof two lines'"
        connection.execute(f"ALTER DATABASE {database.name} {setting}".encode())
        connection.execute(f"ALTER ROLE postgres IN DATABASE {database.name} SET app.other = '{SECRET}'".encode())
    options = {"options": key.options} if encrypted else {}
    captured = capture(server, database.name, nas, **options).manifest
    server.drop_database(database.name)

    folder = nas.root / backup_folder(captured.source, captured.id)
    assert SECRET.encode() not in (folder / "manifest.json").read_bytes(), "an application's setting may be a secret"
    identity = tmp_path / "key.txt"
    identity.write_text(f"# a comment\n{key.secret}\n")
    # Everything that is needed is read from the folder alone.
    manifest = Manifest.from_bytes((folder / "manifest.json").read_bytes(), "the folder")
    with scratch_server(server.installation) as scratch:
        peer = PostgresPeer(scratch, "", host=str(scratch.socket_dir), user=scratch.user)
        reach = conninfo_to_dict(scratch.dsn())
        environment = {
            "PATH": f"{client_for(major).bin}:{os.defpath}",
            "PGHOST": str(reach["host"]),
            "PGPORT": str(reach["port"]),
            "PGUSER": str(reach["user"]),
        }
        for command in manifest.restore_commands:
            line = command.replace("KEY", str(identity)).replace("NEW", "brought_back")
            done = subprocess.run(
                ("bash", "-o", "pipefail", "-c", line),
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
        differences, _ = compare_restored(
            connection_to(peer), "brought_back", manifest, RestoreOptions(scratch=True, jobs=1)
        )
        with psycopg.connect(scratch.dsn("brought_back")) as connection:
            found = connection.execute("SELECT current_setting('app.settings.jwt_secret')").fetchone()
    assert differences == []
    assert found == (f"{SECRET} \\ it's\nof two lines",)


def test_settings_of_applications_come_back_and_are_compared(
    source_server: PostgresPeer, tiny: str, nas: DirectoryStore, new_name: str
) -> None:
    with source_server.connect() as connection:
        connection.execute(f"ALTER DATABASE {tiny} SET app.token = '{SECRET}'".encode())
    captured = capture(source_server, tiny, nas).manifest
    assert captured.evidence.database is not None
    assert captured.evidence.database.hidden_settings == ["app.token"]
    (proof,) = verify(captured, nas)
    assert (proof.result, proof.differences) == ("equal", [])
    assert restore(source_server, new_name, nas, captured).differences == []
    here = connection_to(source_server)
    differences, _ = compare_restored(here, new_name, captured, RestoreOptions(), hidden=["app.token=another"])
    assert differences == ["settings of the database that applications named: other values than the source's"]


def test_digest_of_a_role_is_no_help_in_guessing_its_password(source_server: PostgresPeer) -> None:
    def digest(password: str, setting: str) -> str:
        with source_server.connect() as connection:
            connection.execute("SET password_encryption = 'md5'")
            connection.execute(f"ALTER ROLE guessed PASSWORD '{password}'".encode())
            connection.execute(f"ALTER ROLE guessed SET app.secret = '{setting}'".encode())
        with connect(connection_to(source_server)) as session:
            return roles(session, with_passwords=True)["guessed"]

    with source_server.connect() as connection:
        connection.execute("CREATE ROLE guessed LOGIN")
    try:
        assert digest("hunter2", "a") == digest("another", "b")
    finally:
        with source_server.connect() as connection:
            connection.execute("DROP ROLE guessed")
