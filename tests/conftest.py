"""Which peers (real servers) the tests can ask for."""

from __future__ import annotations

pytest_plugins = [
    "tests.peers.s3",
    "tests.peers.docker",
    "tests.peers.image",
    "tests.peers.postgres",
    "tests.peers.kubernetes.cluster",
]
