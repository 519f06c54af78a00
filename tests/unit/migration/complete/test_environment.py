"""Settings go into a ConfigMap, secrets into a Secret, with Compose's own precedence."""

from __future__ import annotations

import pytest

from homelab_pipelines.migration.stack import StackInvalid
from tests.unit.migration.conftest import Converted
from tests.unit.migration.objects import container, fate, found

ENV = ("services", "app", "environment")


def test_environment_is_split(converted: Converted) -> None:
    conversion = converted("""
        services:
          app: {image: 'nginx:1', environment: {LEVEL: 'info', DB_PASSWORD: 's3cret-words', PRICE: 'a$$b', ON: 'yes'}}
    """)
    assert found(conversion, "ConfigMap", "app-env")["data"] == {"LEVEL": "info", "ON": "yes", "PRICE": "a$b"}
    assert conversion.secrets == {"app-env": {"DB_PASSWORD": b"s3cret-words"}}
    assert container(conversion, "app")["envFrom"] == [
        {"configMapRef": {"name": "app-env"}},
        {"secretRef": {"name": "app-env"}},
    ]


def test_secret_that_is_repeated_under_a_harmless_name_is_one_too(converted: Converted) -> None:
    conversion = converted("""
        services:
          db: {image: 'postgres:17', environment: {POSTGRES_PASSWORD: abc12345xyz}}
          app: {image: 'nginx:1', environment: {OPTIONS: 'host=db;abc12345xyz'}, labels: {note: abc12345xyz}}
    """)
    assert conversion.secrets["app-env"] == {"OPTIONS": b"host=db;abc12345xyz"}
    assert "abc12345xyz" not in str(conversion.objects)


def test_environment_wins_over_env_files_and_the_last_file_over_the_first(converted: Converted) -> None:
    conversion = converted(
        """
        services:
          app: {image: 'nginx:1', env_file: [one.env, two.env], environment: {OWN: own}}
        """,
        one__DOT_env="",
        one_DOT_env="OWN=one\nSHARED=one\nONE='a # b'\n",
        two_DOT_env="SHARED=two\nAPI_TOKEN=abc\n",
    )
    data = found(conversion, "ConfigMap", "app-env")["data"]
    assert data == {"OWN": "own", "SHARED": "two", "ONE": "a # b"}
    assert conversion.secrets["app-env"] == {"API_TOKEN": b"abc"}
    assert fate(conversion, "services", "app", "env_file", 0, "path") == "carried"


def test_env_file_that_need_not_be_there_is_dropped(converted: Converted) -> None:
    conversion = converted("services: {app: {image: 'nginx:1', env_file: [{path: no.env, required: false}]}}")
    assert fate(conversion, "services", "app", "env_file", 0) == "dropped"


def test_env_file_that_is_missing_is_refused(converted: Converted) -> None:
    with pytest.raises(StackInvalid):
        converted("services: {app: {image: 'nginx:1', env_file: no.env}}")


def test_variable_that_nothing_sets_is_dropped_whoever_converts(
    converted: Converted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPERATORS_OWN", "leaked")
    conversion = converted("services: {app: {image: 'nginx:1', environment: [OPERATORS_OWN]}}")
    assert fate(conversion, *ENV, "OPERATORS_OWN") == "dropped"
    assert not any(b"leaked" in content for content in conversion.kompose.files.values())


def test_host_that_no_service_may_be_called_is_rewritten_where_it_is_a_host(converted: Converted) -> None:
    conversion = converted("""
        services:
          my_db: {image: 'postgres:17', expose: ['5432']}
          app:
            image: nginx:1
            environment: {DB_HOST: my_db, DB_URL: 'postgres://my_db:5432/my_db', DB_NAME: my_db}
    """)
    data = found(conversion, "ConfigMap", "app-env")["data"]
    assert data == {"DB_HOST": "my-db", "DB_URL": "postgres://my-db:5432/my_db", "DB_NAME": "my_db"}
    assert found(conversion, "Service", "my-db")
