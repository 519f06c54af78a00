from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from homelab_pipelines.backup.errors import StoreRefused, StoreUnavailable
from homelab_pipelines.backup.stores.addresses import open_store, store_for_target
from homelab_pipelines.backup.stores.base import get, put
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.backup.stores.s3 import S3Store
from homelab_pipelines.backup.stores.throttle import ThrottledStore
from homelab_pipelines.inventory.backups import DirectoryTarget, S3Target
from homelab_pipelines.inventory.secrets import SecretReference

SECRET = "s3cr3t-of-the-test"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "access")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
def test_folder_addresses_open_the_folder(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "a b%20c"
    folder.mkdir()
    address = form.format(folder if form == "{}" else str(folder).replace("%", "%25").replace(" ", "%20"))
    store = open_store(address)
    put(store, "x/y", b"1")
    assert (folder / "x" / "y").read_bytes() == b"1"
    assert store.name == str(folder)
    assert open_store(address, name="nas").name == "nas"


def test_missing_folder_is_unavailable_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="there is no such folder"):
        open_store(str(tmp_path / "typo"))
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("", "not the address of a store"),
        ("https://nas/x", "not the address of a store"),
        ("ftp://user:password@nas/x", "not the address of a store"),
        ("file://nas/x", "a file on another machine"),
        ("s3:///prefix", "names no bucket"),
        ("s3://key:password@bucket/x", "holds no credentials"),
        ("s3://bucket?colour=red", "'colour' is unknown"),
        ("s3://bucket?path_style=maybe", "path_style is 'maybe'"),
        ("s3://bucket?endpoint=nas:9000", "is no URL"),
    ],
)
def test_addresses_that_mean_nothing_are_refused_without_their_secrets(address: str, why: str) -> None:
    with pytest.raises(StoreRefused, match=why) as caught:
        open_store(address)
    assert "password" not in str(caught.value)
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("address", "location"),
    [
        ("s3://bucket", "s3://bucket/key"),
        ("s3://bucket/", "s3://bucket/key"),
        ("s3://bucket/house/backups/?region=eu-west-1", "s3://bucket/house/backups/key"),
        ("s3://bucket/a%20b?endpoint=https://nas:9000&path_style=false", "s3://bucket/a b/key"),
    ],
)
def test_bucket_addresses_open_the_bucket(address: str, location: str) -> None:
    store = open_store(address)
    assert isinstance(store, S3Store)
    assert store.location("key") == location
    assert SECRET not in repr(store)
    assert SECRET not in store.name


def test_endpoint_and_region_of_an_address_reach_the_client() -> None:
    store = open_store("s3://bucket/x?endpoint=http://127.0.0.1:9&region=eu-west-1")
    assert isinstance(store, S3Store)
    assert store.client.meta.endpoint_url == "http://127.0.0.1:9"
    assert store.client.meta.region_name == "eu-west-1"
    other = open_store("s3://bucket/x?endpoint=http://127.0.0.1:9", endpoint="http://127.0.0.1:10", region="eu-north-1")
    assert isinstance(other, S3Store)
    assert other.client.meta.endpoint_url == "http://127.0.0.1:10"
    assert other.client.meta.region_name == "eu-north-1"


def test_missing_credentials_are_refused_with_the_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreRefused, match="AWS_SECRET_ACCESS_KEY is not set") as caught:
        open_store("s3://bucket/x")
    assert caught.value.next_step == "export AWS_SECRET_ACCESS_KEY=…"


def test_directory_target_is_relative_to_the_inventory(tmp_path: Path) -> None:
    store = store_for_target("nas", DirectoryTarget(directory="nas/backups", require_mount=True), tmp_path)
    assert isinstance(store, DirectoryStore)
    assert store.name == "nas"
    assert store.location("a/b") == str(tmp_path / "nas/backups/a/b")
    with pytest.raises(StoreUnavailable, match="is not mounted"):
        store.check()
    store.mark()
    put(store, "a/b", b"1")
    assert get(store, "a/b") == b"1"


def bucket_target(tmp_path: Path, limit: int | None = None) -> S3Target:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "secret").chmod(0o600)
    return S3Target.model_construct(
        s3="s3://bucket/house",
        endpoint="http://127.0.0.1:9000",
        region="eu-west-1",
        access_key=SecretReference(env="AWS_ACCESS_KEY_ID"),
        secret_key=SecretReference(file="secret"),
        path_style=None,
        limit=limit,
        lock=timedelta(days=30),
    )


def test_bucket_target_becomes_a_bucket_store(tmp_path: Path) -> None:
    store = store_for_target("offsite", bucket_target(tmp_path), tmp_path)
    assert isinstance(store, S3Store)
    assert (store.name, store.location("x")) == ("offsite", "s3://bucket/house/x")
    assert store.client.meta.endpoint_url == "http://127.0.0.1:9000"
    assert SECRET not in repr(store)


def test_limit_of_a_target_throttles_it(tmp_path: Path) -> None:
    store = store_for_target("offsite", bucket_target(tmp_path, limit=1_000_000), tmp_path)
    assert isinstance(store, ThrottledStore)
    assert store.name == "offsite"
    assert SECRET not in repr(store)


def test_secret_that_cannot_be_had_is_refused_naming_its_reference(tmp_path: Path) -> None:
    target = bucket_target(tmp_path)
    (tmp_path / "secret").unlink()
    with pytest.raises(StoreRefused, match="there is no such file") as caught:
        store_for_target("offsite", target, tmp_path)
    assert "offsite" in str(caught.value)
    assert caught.value.next_step


def test_a_folder_is_opened_without_importing_boto3(tmp_path: Path) -> None:
    code = (
        "import sys; from homelab_pipelines.backup.stores.addresses import open_store;"
        "import homelab_pipelines.backup.stores.s3; open_store(sys.argv[1]);"
        "print(sorted({'boto3', 'botocore', 'urllib3', 'dagster'} & set(sys.modules)))"
    )
    said = subprocess.run((sys.executable, "-c", code, str(tmp_path)), capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
