"""Secrets are told from settings by name and by look."""

from __future__ import annotations

import pytest

from homelab_pipelines.migration.secret_words import is_secret, is_secret_file, secret_arguments


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POSTGRES_PASSWORD", "hunter"),
        ("DB_PASS", "hunter"),
        ("PG_PASS", "hunter"),
        ("SECRET_KEY_BASE", "0a1b"),
        ("CF_DNS_API_TOKEN", "abc"),
        ("PLEX_CLAIM", "claim-1"),
        ("DATABASE_URL", "postgres://me:hunter@db/app"),
        ("OPTIONS", "host=db password=hunter"),
        ("NEO4J_AUTH", "neo4j/hunter"),
        ("ANYTHING", "-----BEGIN RSA PRIVATE KEY-----"),
        ("USERS", "me:$apr1$abc$def"),
    ],
)
def test_secret(name: str, value: str) -> None:
    assert is_secret(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POSTGRES_PASSWORD_FILE", "/run/secrets/password"),
        ("POSTGRES_PASSWORD", ""),
        ("ALLOW_EMPTY_PASSWORD", "yes"),
        ("PASSWORD_LENGTH", "32"),
        ("DATABASE_URL", "postgres://db/app"),
        ("TZ", "Europe/Berlin"),
        ("PASSENGER_COUNT", "many"),
    ],
)
def test_setting(name: str, value: str) -> None:
    assert not is_secret(name, value)


def test_arguments_that_hold_a_secret() -> None:
    words = ["redis-server", "--requirepass", "hunter2", "--save", "60", "--admin-password=x1y2", "--token-file=/run/t"]
    assert secret_arguments(words) == {2, 5}
    assert secret_arguments(["--password", "--verbose"]) == set(), "the flag has no value here"


def test_files_that_are_secrets() -> None:
    assert is_secret_file("/srv/traefik/acme.json", "{}")
    assert is_secret_file("/srv/tls/server.key", "")
    assert is_secret_file("/srv/app.conf", "password = hunter2")
    assert not is_secret_file("/srv/nginx.conf", "listen 80;")
