"""No secret stands in a manifest, a proof, a stored byte, an error, a log record or the arguments of a program."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from psycopg import sql

from homelab_pipelines.backup.capture import capture_globals
from homelab_pipelines.backup.connection import Command
from homelab_pipelines.backup.errors import BackupError
from homelab_pipelines.backup.fan_out import Target
from homelab_pipelines.backup.stores.base import BackupStore
from homelab_pipelines.backup.stores.directory import DirectoryStore
from tests.integration.backup.conftest import (
    Key,
    capture,
    connection_to,
    restore,
    s3_store,
    verify,
)
from tests.peers.faulty_proxy import FaultyProxy
from tests.peers.postgres import PostgresPeer, fill_example
from tests.peers.s3 import S3Server

pytestmark = pytest.mark.postgres

ACCOUNT_PASSWORD = "correct horse battery staple"
MAPPED_PASSWORD = "mapped"  # of the example's user mapping


@contextmanager
def watched() -> Iterator[list[str]]:
    """The command lines of all programs that run below this process meanwhile, sampled every few milliseconds."""
    seen: set[str] = set()
    found: list[str] = []
    done = threading.Event()

    def watch() -> None:
        this = psutil.Process()
        while not done.is_set():
            for child in this.children(recursive=True):
                try:
                    seen.add(Path(f"/proc/{child.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
                except OSError:
                    continue
            done.wait(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        found += sorted(seen)


def expect_absent(secrets: dict[str, str], where: dict[str, bytes]) -> None:
    for what, secret in secrets.items():
        for place, content in where.items():
            assert secret.encode() not in content, f"{what} stands in {place}"


@pytest.fixture
def secretive(source_server: PostgresPeer) -> Iterator[str]:
    """A database with one of everything; the account `secretive` may back it up with its password."""
    database = source_server.create_database()
    fill_example(database.dsn)
    with source_server.connect() as connection:
        password = sql.Literal(ACCOUNT_PASSWORD)
        connection.execute(sql.SQL("CREATE ROLE secretive SUPERUSER LOGIN PASSWORD {}").format(password))
    yield database.name
    source_server.drop_database(database.name)
    with source_server.connect() as connection:
        connection.execute("DROP ROLE secretive")


@pytest.mark.s3
def test_no_secret_is_seen_in_a_backups_whole_life(
    source_server: PostgresPeer,
    secretive: str,
    nas: DirectoryStore,
    bucket_store: BackupStore,
    s3_server: S3Server,
    key: Key,
    new_name: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    account = {"user": "secretive", "password": ACCOUNT_PASSWORD}
    with watched() as commands:
        manifest = capture(source_server, secretive, nas, bucket_store, options=key.options, **account).manifest
        capture_globals(connection_to(source_server, **account), [Target(nas)], key.options)
        proofs = verify(manifest, nas, bucket_store, identities=key.identities)
        restore(source_server, new_name, nas, manifest, key.identities)
    assert [proof.result for proof in proofs] == ["equal", "equal"]
    for program in ("pg_dump", "pg_dumpall", "pg_restore"):
        assert any(f"/{program} " in command for command in commands), f"{program} was never seen: {commands}"
    written = capfd.readouterr()
    secrets = {
        "the password": ACCOUNT_PASSWORD,
        "the superuser's password": source_server.password,
        "the age identity": key.secret,
        "the S3 secret key": s3_server.secret_key,
    }
    stored = {str(path): path.read_bytes() for path in nas.root.rglob("*") if path.is_file()}
    assert any(path.endswith("manifest.json") for path in stored)
    assert any("proof-" in path for path in stored)
    seen = {
        "the command lines": "\n".join(commands).encode(),
        "the log": caplog.text.encode(),
        "standard output": written.out.encode(),
        "standard error": written.err.encode(),
        "the manifest's repr": repr(manifest).encode(),
        "the connection's repr": repr(connection_to(source_server, **account)).encode(),
        "the store's repr": repr(bucket_store).encode(),
    }
    expect_absent(secrets, {**stored, **seen})
    expect_absent(
        {"the user mapping's password": f"password={MAPPED_PASSWORD}", "the role's password": "example password"},
        {**stored, **seen},
    )


def test_password_travels_beside_the_arguments(source_server: PostgresPeer) -> None:
    command = connection_to(source_server, password="s3cret").command("pg_dump", server_major=15)
    assert command.full_environment()["PGPASSWORD"] == "s3cret"
    assert "s3cret" not in repr(command)
    assert "s3cret" not in repr(Command(("true",), first_line="s3cret"))


@pytest.mark.s3
def test_errors_hold_no_secret(
    source_server: PostgresPeer,
    tiny: str,
    nas: DirectoryStore,
    s3_server: S3Server,
    s3_bucket: str,
    key: Key,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    said: dict[str, bytes] = {}

    def note(what: str, error: BaseException) -> None:
        said[what] = "".join(traceback.format_exception(error)).encode() + repr(error.__dict__).encode()

    for what, changes in {
        "wrong password": {"password": f"{ACCOUNT_PASSWORD}!"},
        "unknown user": {"user": "nobody", "password": ACCOUNT_PASSWORD},
        "unknown database": {"password": source_server.password},
    }.items():
        with pytest.raises(BackupError) as caught:
            capture(source_server, "no such database" if what == "unknown database" else tiny, nas, **changes)
        note(what, caught.value)
    manifest = capture(source_server, tiny, nas, options=key.options).manifest
    with FaultyProxy(s3_server.port) as proxy:
        proxy.set("503")
        store = s3_store(s3_server, s3_bucket, endpoint=proxy.endpoint)
        with pytest.raises(BackupError) as caught:
            capture(source_server, tiny, store)
        note("S3 answers 503", caught.value)
    wrong = s3_store(s3_server, s3_bucket, secret_key=f"{s3_server.secret_key}!")
    with pytest.raises(BackupError) as caught:
        capture(source_server, tiny, wrong)
    note("wrong S3 key", caught.value)
    with pytest.raises(BackupError) as caught:
        restore(source_server, tiny, nas, manifest, key.identities)
    note("a database that is there", caught.value)
    expect_absent(
        {
            "the password": ACCOUNT_PASSWORD,
            "the superuser's password": source_server.password,
            "the age identity": key.secret,
            "the S3 secret key": s3_server.secret_key,
        },
        {**said, "the log": caplog.text.encode()},
    )
