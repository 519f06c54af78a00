"""TCP ports for servers of tests, which some tests end and start again."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_CHANCE = random.SystemRandom()
_FIRST = 10_000
_EPHEMERAL_ELSEWHERE = 49_152  # RFC 6335, 6


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listened on a moment ago, and that no client is given by chance.

    Those of the ephemeral range (ip(7)) are: a client may hold one while its server is down, or connect to itself.
    """
    try:
        first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except FileNotFoundError:
        first_ephemeral = _EPHEMERAL_ELSEWHERE
    while True:
        port = _CHANCE.randrange(_FIRST, first_ephemeral)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
