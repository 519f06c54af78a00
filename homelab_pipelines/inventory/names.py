"""The name under which each database is known in Dagster."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

LONGEST = 63
_HASH = 6


def instance_names(servers: Mapping[str, Iterable[str]]) -> dict[tuple[str, str], str]:
    """The asset instance of each (server, database), unique, in the order of declaration.

    A database keeps its own name where that is `[A-Za-z0-9_-]{1,63}`; other characters become `_`, and a name that was
    changed or cut ends in `_` and 6 hexadecimal digits of its SHA-256. Where servers hold the same name the first
    keeps it, and the others get `<server>__<name>`. The same input gives the same names, on every machine.
    """
    databases = dict.fromkeys((server, name) for server, names in servers.items() for name in names)
    chosen: dict[tuple[str, str], str] = {}
    taken: set[str] = set()

    def take(database: tuple[str, str], instance: str) -> None:
        chosen[database] = instance
        taken.add(instance)

    # Own names come first, so that no made-up name can drive a database out of its own.
    for database in databases:
        if _plain(database[1]) == database[1] and database[1] not in taken:
            take(database, database[1])
    for database in databases:
        if database not in chosen and (own := _plain(database[1])) not in taken:
            take(database, own)
    for database in databases:
        if database not in chosen:
            take(database, _free(f"{_safe(database[0])}__{_plain(database[1])}", "\0".join(database), taken))
    return {database: chosen[database] for database in databases}


def _safe(text: str) -> str:
    return re.sub("[^A-Za-z0-9_-]", "_", text)


def _plain(name: str) -> str:
    safe = _safe(name)
    return (
        safe if safe == name and 0 < len(name) <= LONGEST else f"{safe[: LONGEST - _HASH - 1]}_{_digest(name)[:_HASH]}"
    )


def _free(wanted: str, identity: str, taken: set[str]) -> str:
    digest = _digest(identity)
    candidates = (wanted, *(f"{wanted}_{digest[:length]}" for length in range(_HASH, len(digest) + 1)))
    return next(candidate for candidate in candidates if candidate not in taken)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
