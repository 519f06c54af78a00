"""Commands that reach a server directly, in a container, in a pod: no secret stands in their arguments."""

from __future__ import annotations

import pytest

from homelab_pipelines.backup.connection import Connection, Direct, InContainer, InPod

PASSWORD = "hunter2 '$(id)'"


@pytest.mark.parametrize("place", [Direct("db.lan"), InContainer("pg"), InPod("postgres-0", "db")])
def test_password_never_stands_in_arguments(place: Direct | InContainer | InPod) -> None:
    connection = Connection("main", place, password=PASSWORD)
    command = connection.command("pg_dump", "--dbname", connection.conninfo("app"), server_major=15)
    assert PASSWORD not in " ".join(command.arguments)
    assert PASSWORD not in repr(command)
    assert PASSWORD not in repr(connection)
    assert PASSWORD in (command.environment.get("PGPASSWORD"), command.first_line)


def test_pod_command_names_context_namespace_and_container() -> None:
    connection = Connection("main", InPod("postgres-0", "db", context="home", container="server"))
    assert connection.command("pg_dump", "--version", server_major=17).arguments == (
        *("kubectl", "--context", "home", "exec", "--namespace", "db", "--stdin", "postgres-0"),
        *("--container", "server", "--", "pg_dump", "--version"),
    )


def test_container_command_names_engine_and_container() -> None:
    connection = Connection("main", InContainer("pg", "ssh://admin@192.168.1.10"))
    assert connection.command("psql", "-X", server_major=17).arguments == (
        *("docker", "--host", "ssh://admin@192.168.1.10", "exec", "-i", "pg", "psql", "-X"),
    )


def test_password_reaches_a_container_by_standard_input() -> None:
    command = Connection("main", InContainer("pg"), password=PASSWORD).command("pg_dump", "-Fc", server_major=17)
    assert command.arguments[-2:] == ("pg_dump", "-Fc")
    assert command.first_line == PASSWORD
    assert "read -r PGPASSWORD" in " ".join(command.arguments)


@pytest.mark.parametrize("name", ["a b", "it's", 'quo"te', "back\\slash", "🙂", "new\nline", "=x", ""])
def test_conninfo_quotes_any_database_name(name: str) -> None:
    from psycopg.conninfo import conninfo_to_dict

    parsed = conninfo_to_dict(Connection("main", Direct("h")).conninfo(name or None))
    assert parsed["dbname"] == (name or "postgres")


def test_environment_of_a_user_does_not_leak_into_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "elsewhere")
    monkeypatch.setenv("PGOPTIONS", "-c search_path=evil")
    command = Connection("main", Direct("db.lan")).command("pg_dump", server_major=15)
    assert not [key for key in command.full_environment() if key.startswith("PG")]
