"""The demo homelab: filled once, completed after an interruption, described by an inventory without a mistake."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pyrage
import pytest
from psycopg import sql

from homelab_pipelines.backup.errors import ProgramMissing
from homelab_pipelines.backup.local_server import LocalServerFailed
from homelab_pipelines.backup.scratch_folder import default_parent
from homelab_pipelines.demo import server as demo
from homelab_pipelines.demo.data import DATABASES, ensure
from homelab_pipelines.demo.inventory import (
    IDENTITY_FILE,
    NAS,
    DemoIncomplete,
    complete_demo,
    demo_home,
    write_demo_inventory,
)
from homelab_pipelines.demo.server import (
    PASSWORD_FILE,
    PORT_FILE,
    DemoServer,
    demo_server,
    remove_demo,
    superuser_password,
)
from homelab_pipelines.inventory.loader import check, load
from tests.peers import missing

pytestmark = pytest.mark.postgres
REPOSITORY = Path(__file__).parents[2]
# One number for the contents of each database: the sum over all rows of some tables.
CONTENT = {
    "immich": """
        SELECT (SELECT sum(hashtextextended(a::text, 0)::numeric) FROM asset AS a)
             + (SELECT sum(hashtextextended(e::text, 0)::numeric) FROM asset_exif AS e)
             + (SELECT sum(hashtextextended(f::text, 0)::numeric) FROM face_search AS f)""",
    "nextcloud": """
        SELECT (SELECT sum(hashtextextended(f::text, 0)::numeric) FROM oc_filecache AS f)
             + (SELECT sum(hashtextextended(a::text, 0)::numeric) FROM oc_activity AS a)""",
}


def value(server: DemoServer, database: str, query: str) -> object:
    with psycopg.connect(server.dsn(database)) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="test-demo-", dir=default_parent()))
    folder.chmod(0o711)
    yield folder
    remove_demo(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def filled(home: Path) -> Iterator[DemoServer]:
    try:
        demo.choose_installation()
    except ProgramMissing as error:
        missing(str(error))
    with demo_server(home) as server:
        assert ensure(server.dsn()) == list(DATABASES)
        yield server


def test_demo_databases_hold_what_a_backup_must_carry(filled: DemoServer) -> None:
    total = sum(int(str(value(filled, name, "SELECT pg_database_size(current_database())"))) for name in DATABASES)
    assert 80e6 < total < 250e6
    for query in (
        "SELECT count(*) FROM asset",
        "SELECT count(*) FROM pg_largeobject_metadata",
        "SELECT count(*) FROM pg_class WHERE relispartition",
        "SELECT count(*) FROM pg_attribute WHERE attgenerated <> ''",
        "SELECT count(*) FROM pg_matviews WHERE ispopulated",
        "SELECT count(*) FROM pg_sequences WHERE last_value > 1",
        "SELECT count(*) FROM pg_attribute WHERE atttypid = 'jsonb'::regtype AND attrelid = 'asset_exif'::regclass",
        "SELECT count(*) FROM pg_roles WHERE rolname IN ('immich', 'nextcloud', 'reports', 'grafana')",
        "SELECT count(*) FROM activity_2026_05",
    ):
        assert value(filled, "immich", query), query
    assert value(filled, "nextcloud", "SELECT count(*) FROM oc_filecache WHERE parent > 0") == 92400
    for name in DATABASES:
        assert value(filled, name, f"SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '{name}'") == name


def test_demo_extensions_of_the_server_are_used(filled: DemoServer) -> None:
    wished = "SELECT count(*) FROM pg_available_extensions WHERE name IN ('vector', 'pg_trgm')"
    used = "SELECT count(*) FROM pg_extension WHERE extname IN ('vector', 'pg_trgm')"
    assert value(filled, "immich", used) == value(filled, "immich", wished)


def test_ensure_complete_databases_are_left_as_they_are(filled: DemoServer) -> None:
    with psycopg.connect(filled.dsn("nextcloud"), autocommit=True) as connection:
        connection.execute("UPDATE oc_users SET displayname = 'Changed' WHERE uid = 'ada'")
    started = time.monotonic()
    assert ensure(filled.dsn()) == []
    assert time.monotonic() - started < 2
    assert value(filled, "nextcloud", "SELECT displayname FROM oc_users WHERE uid = 'ada'") == "Changed"


def test_ensure_killed_in_the_middle_is_completed_with_the_same_rows(filled: DemoServer) -> None:
    before = {name: value(filled, name, CONTENT[name]) for name in DATABASES}
    with psycopg.connect(filled.dsn(), autocommit=True) as connection:
        for name in DATABASES:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        filling = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import os; from homelab_pipelines.demo.data import ensure; ensure(os.environ['DSN'])",
            ],
            env={**os.environ, "DSN": filled.dsn()},
            cwd=REPOSITORY,
        )
        busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'immich' AND query LIKE '-- A photo library%'"
        while filling.poll() is None and connection.execute(busy.encode()).fetchone() == (0,):
            time.sleep(0.01)
        filling.kill()
        assert filling.wait() == -9, "it was killed before it was done"
        # The server notices the dead client only at the end of the statement.
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'immich'")
    assert "immich" in ensure(filled.dsn())
    assert {name: value(filled, name, CONTENT[name]) for name in DATABASES} == before


def test_demo_server_second_start_has_same_port_and_password_and_data(home: Path, filled: DemoServer) -> None:
    # A home of its own: the module's server runs.
    other = home / "other"
    other.mkdir(mode=0o711)
    with demo_server(other) as first, psycopg.connect(first.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    with demo_server(other) as second:
        assert (second.port, second.password) == (first.port, first.password)
        assert value(second, "postgres", "SELECT n FROM kept") == 1
    assert (other / PASSWORD_FILE).stat().st_mode & 0o777 == 0o600
    assert first.password != filled.password


def test_demo_server_home_closed_to_its_user_keeps_the_cluster_elsewhere(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(demo, "COPIES", home / "elsewhere")
    for _ in range(2):
        with demo_server(tmp_path) as server:
            assert value(server, "postgres", "SELECT 1") == 1
    if os.geteuid() == 0:
        assert len(list((home / "elsewhere").iterdir())) == 1
    remove_demo(tmp_path)
    assert not (tmp_path / "demo").exists()
    assert not (home / "elsewhere").exists() or not list((home / "elsewhere").iterdir())


def test_demo_server_port_taken_names_the_file_to_change(home: Path, filled: DemoServer) -> None:
    other = home / "port taken"
    (other / PORT_FILE).parent.mkdir(parents=True)
    (other / PORT_FILE).write_text(f"{filled.port}\n")
    with (
        pytest.raises(LocalServerFailed, match=f"port {filled.port} of 127.0.0.1 is taken") as caught,
        demo_server(other),
    ):
        pytest.fail("it started")
    assert str(other / PORT_FILE) in caught.value.next_step


def test_choose_installation_of_unknown_major_says_what_to_install() -> None:
    with pytest.raises(ProgramMissing, match="no PostgreSQL 9 server is installed, which made") as caught:
        demo.choose_installation(9)
    assert "homelab-pipelines[demo]" in caught.value.next_step


@pytest.mark.parametrize("place", ["homelab.yaml", "../elsewhere-{}.yaml"])
def test_write_demo_inventory_passes_the_check_and_opens_the_server(place: str, home: Path, filled: DemoServer) -> None:
    path = home / place.format(home.name)
    try:
        write_demo_inventory(path, home)
        assert check(path) == []
        inventory = load(path)
        main = inventory.databases["main"]
        assert main.password is not None
        with psycopg.connect(
            host=inventory.address_of(main.at.host),  # type: ignore[union-attr]
            port=main.at.port,  # type: ignore[union-attr]
            user=main.user,
            password=main.password.read(path.parent),
            dbname="immich",
        ) as connection:
            assert connection.execute("SELECT count(*) FROM asset").fetchone() == (30000,)
    finally:
        if not path.resolve().is_relative_to(home):
            path.unlink()


def test_write_demo_inventory_twice_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / 'a "quoted" \\ folder: # yes'
    folder.mkdir()
    path = folder / "homelab.yaml"
    home = folder / "state"
    write_demo_inventory(path, home)
    assert check(path) == []
    kept = [(file, file.read_bytes()) for file in sorted(folder.rglob("*")) if file.is_file()]
    write_demo_inventory(path, home)
    assert [(file, file.read_bytes()) for file in sorted(folder.rglob("*")) if file.is_file()] == kept
    assert (home / NAS / ".homelab-backups").exists()
    secret = (home / IDENTITY_FILE).read_text().strip()
    assert (home / IDENTITY_FILE).stat().st_mode & 0o777 == 0o600
    assert secret not in path.read_text()
    assert str(pyrage.x25519.Identity.from_str(secret).to_public()) in path.read_text()
    assert load(path).backups.targets["nas"].directory == "state/demo/nas"  # type: ignore[union-attr]


def test_demo_home_is_told_by_the_inventory_even_when_all_of_it_is_gone(tmp_path: Path) -> None:
    path, home = tmp_path / "homelab.yaml", tmp_path / "state"
    write_demo_inventory(path, home)
    assert demo_home(path) == home
    shutil.rmtree(home)
    assert demo_home(path) == home
    path.write_text(path.read_text().replace("demo/secrets/postgres-password", "secrets/mine"))
    assert demo_home(path) is None
    path.write_text("homelab: [")
    assert demo_home(path) is None


def test_complete_demo_makes_again_what_is_gone_and_keeps_the_rest_of_the_file(tmp_path: Path) -> None:
    path, home = tmp_path / "homelab.yaml", tmp_path / "state"
    write_demo_inventory(path, home)
    superuser_password(home)
    path.write_text(f"{path.read_text()}# mine: ä\n", encoding="utf-8")
    before = path.read_text(encoding="utf-8")
    port = (home / PORT_FILE).read_text()
    assert complete_demo(path, home) == []
    assert path.read_text(encoding="utf-8") == before

    shutil.rmtree(home)
    made = complete_demo(path, home)
    assert [line.partition(" (")[0] for line in made] == [
        "the superuser's password",
        "the age identity",
        "the folder that plays the NAS",
    ]
    assert (home / PORT_FILE).read_text() == port and (home / NAS / ".homelab-backups").exists()
    identity = pyrage.x25519.Identity.from_str((home / IDENTITY_FILE).read_text().strip())
    assert load(path).backups.encrypt_to == (str(identity.to_public()),)
    assert len(set(before.splitlines()) - set(path.read_text(encoding="utf-8").splitlines())) == 1


def test_complete_demo_of_two_keys_cannot_know_which_one_was_lost(tmp_path: Path) -> None:
    path, home = tmp_path / "homelab.yaml", tmp_path / "state"
    write_demo_inventory(path, home)
    second = str(pyrage.x25519.Identity.generate().to_public())
    path.write_text(path.read_text().replace("encrypt_to: [", f"encrypt_to: [{second}, "))
    before = path.read_text()
    (home / IDENTITY_FILE).unlink()
    with pytest.raises(DemoIncomplete, match="encrypt_to has 2 keys") as caught:
        complete_demo(path, home)
    assert "put the identity back" in caught.value.next_step
    assert path.read_text() == before
