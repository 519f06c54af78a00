"""Small promises of the models: what a server selects, defaults, frozen values, targets' addresses."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from homelab_pipelines.inventory.backups import Backups, DirectoryTarget, Keep, S3Target
from homelab_pipelines.inventory.databases import AtContainer, AtHost, AtPod, AtSocket, PostgresServer
from homelab_pipelines.inventory.model import Homelab
from homelab_pipelines.inventory.problems import shown
from homelab_pipelines.inventory.secrets import SecretReference


@pytest.mark.parametrize(
    ("include", "exclude", "name", "selected"),
    [
        (["*"], [], "nextcloud", True),
        (["*"], ["scratch_*"], "scratch_1", False),
        (["next*"], [], "Nextcloud", False),
        (["next*", "immich"], [], "immich", True),
        ([], [], "immich", False),
        (["*"], ["*"], "immich", False),
        (["a[bc]"], [], "ab", True),
        (["*"], [], "with\nnewline", True),
    ],
)
def test_selects_by_patterns_exclude_wins(include: list[str], exclude: list[str], name: str, selected: bool) -> None:
    server = PostgresServer.model_validate(
        {"kind": "postgres", "at": {"host": "127.0.0.1"}, "include": include, "exclude": exclude}
    )
    assert server.selects(name) is selected


@pytest.mark.parametrize(
    ("at", "kind"),
    [
        ({"host": "127.0.0.1"}, AtHost),
        ({"socket": "/run/postgresql"}, AtSocket),
        ({"container": "postgres"}, AtContainer),
        ({"pod": "postgres-0"}, AtPod),
    ],
)
def test_at_kind_follows_from_its_key(at: dict[str, str], kind: type) -> None:
    server = PostgresServer.model_validate({"kind": "postgres", "at": at})
    assert isinstance(server.at, kind)
    assert PostgresServer(kind="postgres", at=server.at) == server


def test_homelab_defaults_are_complete() -> None:
    homelab = Homelab(homelab="home")
    assert homelab.timezone == "UTC"
    assert homelab.backups == Backups()
    assert homelab.backups.schedule == "0 2 * * *"
    assert Homelab.model_validate_json(homelab.model_dump_json(exclude_defaults=True)) == homelab


def test_homelab_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Homelab(homelab="home").homelab = "away"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("address", "bucket", "prefix"),
    [
        ("s3://homelab-backups", "homelab-backups", ""),
        ("s3://homelab-backups/", "homelab-backups", ""),
        ("s3://homelab-backups/a/b/", "homelab-backups", "a/b"),
    ],
)
def test_s3_target_address_is_taken_apart(address: str, bucket: str, prefix: str) -> None:
    key = SecretReference(env="KEY")
    target = S3Target(s3=address, access_key=key, secret_key=key)
    assert (target.bucket, target.prefix, target.uses_path_style) == (bucket, prefix, False)


def test_s3_target_uses_path_style_where_an_endpoint_is_given_unless_told() -> None:
    key = SecretReference(env="KEY")
    target = S3Target(s3="s3://bucket", access_key=key, secret_key=key, endpoint="http://127.0.0.1:9000/")
    assert target.endpoint == "http://127.0.0.1:9000"
    assert target.uses_path_style
    assert not target.model_copy(update={"path_style": False}).uses_path_style


@pytest.mark.parametrize("address", ["bucket", "s3://", "s3://B", "s3://bucket//x", "s3://bucket/../x", "https://b"])
def test_s3_target_bad_address_is_refused(address: str) -> None:
    key = SecretReference(env="KEY")
    with pytest.raises(ValidationError):
        S3Target(s3=address, access_key=key, secret_key=key)


def test_directory_target_path_starts_at_the_folder_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert DirectoryTarget(directory="backups").path(Path("/lab")) == Path("/lab/backups")
    assert DirectoryTarget(directory="/mnt/nas").path(Path("/lab")) == Path("/mnt/nas")
    assert DirectoryTarget(directory="~/nas").path(Path("/lab")) == Path("/home/someone/nas")


def test_keep_of_nothing_is_refused_and_of_one_day_is_not() -> None:
    assert Keep(daily=1).daily == 1
    with pytest.raises(ValidationError, match="would keep no backup"):
        Keep()


def test_encrypt_to_accepts_a_public_key_made_by_age() -> None:
    import pyrage

    key = str(pyrage.x25519.Identity.generate().to_public())
    assert Backups.model_validate({"encrypt_to": [key]}).encrypt_to == (key,)


@pytest.mark.parametrize("value", ["https://user:pw@x", "a@b", "password=x", "AGE-SECRET-KEY-1", "x" * 61, "a\nb"])
def test_shown_text_that_could_hold_a_secret_is_not_repeated(value: str) -> None:
    assert shown(value) == "this text"
