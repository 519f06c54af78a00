"""One daemon a storage: the lock on a real PostgreSQL, while sessions end and the other takes over."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from homelab_pipelines.commands.serve_daemon import OnlyDaemon
from tests.peers.postgres import FreshDatabase

pytestmark = pytest.mark.postgres


def daemon(storage: FreshDatabase) -> OnlyDaemon:
    peer = storage.server
    address = f"{quote(peer.user)}:{quote(peer.password)}@{peer.host}:{peer.port}/{storage.name}"
    return OnlyDaemon(f"postgresql+psycopg2://{address}")


def end_sessions(storage: FreshDatabase) -> None:
    """As a restart of the server does."""
    with storage.server.connect() as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (storage.name,))


def test_second_daemon_is_told_who_the_first_is(fresh_database: FreshDatabase) -> None:
    first, second = daemon(fresh_database), daemon(fresh_database)
    assert first.held() and first.held()
    assert not second.held()
    assert second.holder().startswith("homelab daemon ") and "connected since 20" in second.holder()


def test_daemon_whose_session_was_ended_takes_the_lock_again(fresh_database: FreshDatabase) -> None:
    first, second = daemon(fresh_database), daemon(fresh_database)
    assert first.held()
    end_sessions(fresh_database)
    assert first.held() and not second.held()


def test_daemon_that_was_away_finds_that_another_has_taken_over(fresh_database: FreshDatabase) -> None:
    first, second = daemon(fresh_database), daemon(fresh_database)
    assert first.held()
    end_sessions(fresh_database)
    assert second.held()
    assert not first.held()
