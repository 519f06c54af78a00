"""References to secrets: what they read, how they fail, and that a secret written by mistake is never repeated."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from pydantic import ValidationError

from homelab_pipelines.inventory.secrets import (
    SecretExposed,
    SecretFileMissing,
    SecretReference,
    SecretUnreadable,
    SecretUnset,
)
from tests.unit.inventory.conftest import Checker

SECRET = "hunter2"


def _file(folder: Path, content: bytes, mode: int = 0o600) -> SecretReference:
    path = folder / "secrets" / "one"
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(mode)
    return SecretReference(file="secrets/one")


def test_read_environment_gives_its_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMELAB_TEST_SECRET", SECRET)
    assert SecretReference(env="HOMELAB_TEST_SECRET").read(tmp_path) == SECRET


@pytest.mark.parametrize(("value", "state"), [(None, "is not set"), ("", "is empty")])
def test_read_environment_without_value_names_the_variable(
    value: str | None, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOMELAB_TEST_SECRET", raising=False)
    if value is not None:
        monkeypatch.setenv("HOMELAB_TEST_SECRET", value)
    with pytest.raises(SecretUnset, match=rf"HOMELAB_TEST_SECRET.*{state}[\s\S]*export HOMELAB_TEST_SECRET"):
        SecretReference(env="HOMELAB_TEST_SECRET").read(tmp_path)


@pytest.mark.parametrize(
    ("content", "secret"),
    [(b"hunter2", "hunter2"), (b"hunter2\n", "hunter2"), (b"hunter2\r\n", "hunter2"), (b" a \n\n", " a \n")],
)
def test_read_file_gives_its_text_without_one_line_break(content: bytes, secret: str, tmp_path: Path) -> None:
    reference = _file(tmp_path, content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reference.read(tmp_path) == secret


def test_read_file_in_the_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _file(tmp_path, b"hunter2")
    assert SecretReference(file="~/secrets/one").read(Path("elsewhere")) == SECRET


def test_read_file_that_everybody_can_read_warns_and_still_reads(tmp_path: Path) -> None:
    reference = _file(tmp_path, b"hunter2", mode=0o644)
    with pytest.warns(SecretExposed, match="chmod 600") as caught:
        assert reference.read(tmp_path) == SECRET
    assert SECRET not in str(caught[0].message)


def test_read_missing_file_says_which_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SecretFileMissing, match="no such file"):
        SecretReference(file="~nobody-of-this-name/one").read(tmp_path)
    with pytest.raises(SecretFileMissing, match=r"secrets/none: there is no such file\n  next: .*chmod 600"):
        SecretReference(file="secrets/none").read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n", b"hunter2\xff"])
def test_read_file_without_a_secret_is_refused_and_not_quoted(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(SecretUnreadable) as raised:
        _file(tmp_path, content).read(tmp_path)
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_read_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    with pytest.raises(SecretUnreadable):
        SecretReference(file="secrets").read(tmp_path)


def test_text_of_a_reference_is_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMELAB_TEST_SECRET", SECRET)
    assert str(SecretReference(env="HOMELAB_TEST_SECRET")) == "{env: HOMELAB_TEST_SECRET}"
    assert str(SecretReference(file="secrets/one")) == "{file: secrets/one}"
    assert SECRET not in repr(SecretReference(env="HOMELAB_TEST_SECRET"))


@pytest.mark.parametrize("value", [SECRET, {"env": f"{SECRET}!"}, {SECRET: None}, [SECRET], {"value": SECRET}])
def test_validation_error_of_pydantic_itself_does_not_show_a_literal(value: object) -> None:
    with pytest.raises(ValidationError) as raised:
        SecretReference.model_validate(value)
    assert SECRET not in str(raised.value)


PLACES = {
    "password": "databases: {main: {kind: postgres, at: {host: 127.0.0.1}, password: %s}}",
    "identity": "backups: {identity: %s}",
    "recipient": "backups: {encrypt_to: [%s]}",
    "recipients": "backups: {encrypt_to: %s}",
    "access_key": "backups: {targets: {far: {s3: 's3://bucket', access_key: %s, secret_key: {env: A}}}}",
    "ssh_key": "hosts: {main: {address: 127.0.0.1, ssh: {user: admin, key: %s}}}",
    "alert": "alerts: {to: [%s]}",
    "alerts": "alerts: {to: %s}",
    "ping": "alerts: {ping: %s}",
    "bucket": "backups: {targets: {far: {s3: 's3://user:%s@bucket', access_key: {env: A}, secret_key: {env: A}}}}",
    "dsn": "databases: {main: {kind: postgres, at: {host: 'postgres://backup:%s@db.example.org/x'}}}",
    "no_space": "databases: {main: {kind: postgres, at: {host: 127.0.0.1}, password:%s}}",
    "no_colon": "databases: {main: {kind: postgres, at: {host: 127.0.0.1}, password %s}}",
    "equals_sign": "databases: {main: {kind: postgres, at: {host: 127.0.0.1}, password=%s: }}",
    "own_line": "databases:\n  main:\n    kind: postgres\n    at: {host: 127.0.0.1}\n    password:%s\n",
}
FORMS = (
    "%s", "'%s'", "[%s]", "{%s}", "{%s, %s}", "{value: %s}", "{env: '%s!'}", "{env: A, %s: b}", "{evn: %s}", "*%s",
    "!%s", "!a!%s x", "@%s", "`%s", "%%%s", "|%s", "'%s", "5%s", "AGE-SECRET-KEY-1%s", "ntfy://%s@host/x",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_check_literal_secret_is_refused_and_never_repeated(place: str, form: str, problems_of: Checker) -> None:
    literal = form.replace("%%", "%").replace("%s", SECRET)
    problems = problems_of("homelab: home\n" + PLACES[place].replace("%s", literal) + "\n")
    assert problems
    assert SECRET not in "".join(f"{problem}{problem!r}" for problem in problems)
