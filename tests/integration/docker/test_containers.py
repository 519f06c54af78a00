"""Sources and scratch servers in containers of a real Docker Engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import pytest

from homelab_pipelines.backup import verify
from homelab_pipelines.backup.capture import CaptureOptions, capture_database
from homelab_pipelines.backup.connection import Connection, InContainer
from homelab_pipelines.backup.containers import scratch_container, sweep_scratch_containers
from homelab_pipelines.backup.errors import (
    BackupError,
    ProgramMissing,
    SourceRefused,
    SourceUnavailable,
    VerificationImpossible,
)
from homelab_pipelines.backup.fan_out import Target
from homelab_pipelines.backup.records import read_backup
from homelab_pipelines.backup.session import connect
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.backup.verify import ScratchChoice, verify_backup
from tests.peers.docker import IMAGE, DockerPeer

pytestmark = pytest.mark.docker
PASSWORD = "a secret 'with' quotes"


@pytest.fixture(scope="module")
def source(docker_engine: DockerPeer) -> Iterator[Connection]:
    """A server in a container that asks for a password even on its socket, with one small database."""
    docker_engine.postgres("source", PASSWORD)
    connection = Connection("boxed", InContainer("source", docker_engine.host), password=PASSWORD)
    with connect(connection) as session:
        session.execute('CREATE DATABASE "an app"')
        session.execute("CREATE ROLE app LOGIN PASSWORD 'x'")
    with connect(connection, "an app") as session:
        session.execute("CREATE TABLE public.note (id bigserial PRIMARY KEY, text text, ratio float8)")
        session.execute(
            "INSERT INTO public.note (text, ratio) SELECT 'täxt ' || i, i / 3.0 FROM generate_series(1, 500) i"
        )
        session.execute("ALTER TABLE public.note OWNER TO app; SELECT lo_from_bytea(0, 'large')")
    yield connection
    docker_engine.docker("rm", "--force", "--volumes", "source")


@pytest.mark.parametrize("method", ["container", "local"])
def test_capture_from_container_restores_equal(
    source: Connection, docker_engine: DockerPeer, tmp_path: Path, method: str
) -> None:
    store = DirectoryStore(tmp_path, "nas")
    result = capture_database(source, "an app", [Target(store)], CaptureOptions())
    assert result.manifest.server_image == IMAGE
    record = read_backup(store, result.manifest.source, result.manifest.id)
    choice = ScratchChoice(method=method, docker_host=docker_engine.host)  # type: ignore[arg-type]
    [proof] = verify_backup({"nas": (store, record)}, [], choice)
    assert (proof.result, proof.differences) == ("equal", [])
    assert method in (proof.scratch or "")
    assert docker_engine.containers() == ["source"]


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "UTF8"])
def test_container_database_of_any_encoding_restores_equal(
    source: Connection, docker_engine: DockerPeer, tmp_path: Path, encoding: str
) -> None:
    """With a name and a value that, in SQL_ASCII, are no UTF-8, and with a default encoding for its clients."""
    name = f"in {encoding}"
    word = "Ma\udcdf" if encoding == "SQL_ASCII" else "Maß"
    with connect(source) as session:
        session.execute(f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
        session.execute(f"ALTER DATABASE \"{name}\" SET client_encoding = 'LATIN1'")
    with connect(source, name) as session:
        session.execute(
            f"CREATE TABLE public.\"{word}\" AS SELECT n, '{word}'::text AS word FROM generate_series(1, 9) n"
        )
        assert session.rows(f'SELECT DISTINCT word FROM public."{word}"') == [{"word": word}]
    store = DirectoryStore(tmp_path, "nas")
    manifest = capture_database(source, name, [Target(store)], CaptureOptions()).manifest
    record = read_backup(store, manifest.source, manifest.id)
    [proof] = verify_backup(
        {"nas": (store, record)}, [], ScratchChoice(method="container", docker_host=docker_engine.host)
    )
    assert (proof.result, proof.differences) == ("equal", [])


def test_scratch_container_comparison_can_fail(source: Connection, docker_engine: DockerPeer, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, "nas")
    result = capture_database(source, "an app", [Target(store)], CaptureOptions())
    record = read_backup(store, result.manifest.source, result.manifest.id)
    tables = [each.model_copy(update={"rows": 499}) for each in record.manifest.evidence.tables]
    evidence = record.manifest.evidence.model_copy(update={"tables": tables})
    record = record.model_copy(update={"manifest": record.manifest.model_copy(update={"evidence": evidence})})
    choice = ScratchChoice(method="container", docker_host=docker_engine.host)
    [proof] = verify_backup({"nas": (store, record)}, [], choice)
    assert proof.result == "different"
    assert proof.differences == ["table public.note: 499 rows in the source, 500 restored"]


def test_wrong_password_is_refused_without_showing_it(source: Connection, tmp_path: Path) -> None:
    wrong = Connection("boxed", source.place, password="not the password")
    with pytest.raises(SourceRefused) as caught:
        capture_database(wrong, "an app", [Target(DirectoryStore(tmp_path, "nas"))], CaptureOptions())
    assert "authentication failed" in str(caught.value)
    assert "not the password" not in str(caught.value)
    assert list(tmp_path.rglob("*.json")) == []


def test_password_stands_in_no_argument_of_a_process(source: Connection) -> None:
    command = source.command("pg_dump", "--version", server_major=18)
    assert PASSWORD not in " ".join(command.arguments)
    with connect(source, "an app") as session:
        session.rows("SELECT pg_sleep(0)")
        arguments = b"".join(_arguments(process) for process in Path("/proc").glob("[0-9]*"))
    assert b"psql" in arguments
    assert PASSWORD.encode() not in arguments


def test_unknown_container_says_so(docker_engine: DockerPeer, tmp_path: Path) -> None:
    nobody = Connection("boxed", InContainer("nobody", docker_engine.host))
    with pytest.raises(BackupError, match=r"(?i)no such container") as caught:
        capture_database(nobody, "app", [Target(DirectoryStore(tmp_path, "nas"))], CaptureOptions())
    assert isinstance(caught.value, SourceUnavailable)


def test_scratch_container_of_a_missing_image_says_so(docker_engine: DockerPeer) -> None:
    with (
        pytest.raises(VerificationImpossible, match=re.escape("homelab-test/absent:1")),
        scratch_container("homelab-test/absent:1", docker_engine.host),
    ):
        pass


def test_scratch_container_starts_with_the_images_own_arguments(docker_engine: DockerPeer, tmp_path: Path) -> None:
    """As Immich's image, whose arguments load the library that its vectors need."""
    arguments = ["postgres", "-c", "shared_preload_libraries=pg_stat_statements"]
    (tmp_path / "Dockerfile").write_text(f"FROM {IMAGE}\nCMD {json.dumps(arguments)}\n")
    docker_engine.docker("build", "--quiet", "--tag", "homelab-test/preloaded:18", str(tmp_path))
    with scratch_container("homelab-test/preloaded:18", docker_engine.host) as place, connect(place) as session:
        assert session.rows(
            "SELECT current_setting('shared_preload_libraries') AS loaded, current_setting('fsync') AS fsync"
        ) == [{"loaded": "pg_stat_statements", "fsync": "off"}]


def test_forgotten_scratch_container_is_swept(docker_engine: DockerPeer) -> None:
    with scratch_container(IMAGE, docker_engine.host) as connection:
        name = connection.place.container  # type: ignore[union-attr]
        assert sweep_scratch_containers(timedelta(hours=1), docker_engine.host) == []
        assert sweep_scratch_containers(timedelta(seconds=-1), docker_engine.host) == [name]
    assert name not in docker_engine.containers()


VERIFIER = """
import sys, time
from homelab_pipelines.backup.containers import scratch_container
with scratch_container(*sys.argv[1:]) as connection:
    print(connection.place.container, flush=True)
    time.sleep(600)
"""


def test_scratch_container_ends_with_its_killed_verification(docker_engine: DockerPeer) -> None:
    command = (sys.executable, "-c", VERIFIER, IMAGE, docker_engine.host)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            name = process.stdout.readline().strip()
            assert name in docker_engine.containers()
        finally:
            process.kill()
    deadline = time.monotonic() + 20
    while name in docker_engine.containers():
        assert time.monotonic() < deadline, f"{name} outlives the process that started it"
        time.sleep(0.2)


def test_auto_tries_the_next_way_when_docker_fails(
    source: Connection, docker_engine: DockerPeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No local programs of this version, no image: a scratch database on the server that is named."""
    store = DirectoryStore(tmp_path, "nas")
    manifest = capture_database(source, "an app", [Target(store)], CaptureOptions()).manifest
    record = read_backup(store, manifest.source, manifest.id)
    monkeypatch.setattr(verify, "server_for", _none_here)
    absent = {"image": "homelab-test/absent:1", "docker_host": docker_engine.host}
    [proof] = verify_backup({"nas": (store, record)}, [], ScratchChoice(server=source, **absent))
    assert (proof.result, proof.scratch) == ("equal", f"scratch database on {source}")
    weaker = [note for note in proof.notes if note.startswith("not restored here: ")]
    assert [note.split(": ")[1] for note in weaker] == ["local", "container"]
    with pytest.raises(VerificationImpossible) as caught:
        verify_backup({"nas": (store, record)}, [], ScratchChoice(**absent))
    for way in ("local: ", "container: docker pull homelab-test/absent:1: ", "server: none is named"):
        assert way in str(caught.value)


def _none_here(major: int, extensions: object) -> NoReturn:
    raise ProgramMissing("finding server programs", f"none of {major} is installed", f"apt install postgresql-{major}")


def _arguments(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it ended meanwhile
        return b""
