"""What the demo's server holds: a photo library (`immich`) and a file server's database (`nextcloud`), some 100 MB.

The rows are made by the server itself, from the SQL files beside this module and a fixed seed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

DATABASES = ("immich", "nextcloud")
# A database of these tables is complete: each is made in the one transaction that fills its database.
_FIRST_TABLE = {"immich": "public.asset", "nextcloud": "public.oc_filecache"}
WISHED_EXTENSIONS = ("pg_trgm", "vector")
_EXTENSIONS_OF = {"immich": WISHED_EXTENSIONS, "nextcloud": ()}
_LOCK = 0x686F6D65  # "home": any number that other programs do not use
# The apps' roles own their databases; reports may read, and grafana is one of those who do. None has a password:
# the demo's only client is the superuser.
_ROLES = """
DO $$
DECLARE new_role text;
BEGIN
    FOREACH new_role IN ARRAY ARRAY['immich', 'nextcloud', 'reports', 'grafana'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = new_role) THEN
            EXECUTE format('CREATE ROLE %I', new_role);
        END IF;
    END LOOP;
END $$;
ALTER ROLE immich LOGIN CONNECTION LIMIT 30;
ALTER ROLE nextcloud LOGIN CONNECTION LIMIT 30;
ALTER ROLE grafana LOGIN;
ALTER ROLE reports SET statement_timeout = '30s';
ALTER ROLE reports SET default_transaction_read_only = on;
GRANT reports TO grafana;
COMMENT ON ROLE reports IS 'reads for dashboards';
"""


def ensure(dsn: str) -> list[str]:
    """Fill the demo's databases where they are not complete yet; return the names of those that were filled.

    `dsn` is the superuser's, for the database postgres. Each database is filled in one transaction: after an
    interruption it is empty and is filled again; a complete one is left as it is, whatever was changed in it since.
    Raises psycopg.Error when the server cannot be reached or refuses.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        # Two commands that start at once: the second one waits here, and then finds all done.
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        missing = [name for name in DATABASES if not _complete(dsn, name)]
        if missing:
            connection.execute(_ROLES)
        for name in missing:
            _create(connection, name)
        with ThreadPoolExecutor(len(DATABASES)) as pool:
            list(pool.map(lambda name: _fill(make_conninfo(dsn, dbname=name), name), missing))
    return missing


def _complete(dsn: str, name: str) -> bool:
    try:
        with psycopg.connect(make_conninfo(dsn, dbname=name)) as connection:
            found = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (_FIRST_TABLE[name],)).fetchone()
    except psycopg.OperationalError as error:
        # Connecting gives no SQLSTATE (psycopg 3.2); which databases there are is asked in _create.
        if "does not exist" in str(error):
            return False
        raise
    return found is not None and bool(found[0])


def _create(connection: psycopg.Connection, name: str) -> None:
    if connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8'").format(
                sql.Identifier(name), sql.Identifier(name)
            )
        )


def _fill(dsn: str, name: str) -> None:
    statements = Path(__file__).with_name(f"{name}.sql").read_bytes()
    with psycopg.connect(dsn) as connection:
        connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")  # random() in one order
        available = connection.execute("SELECT name FROM pg_available_extensions").fetchall()
        for extension in _EXTENSIONS_OF[name]:
            if (extension,) in available:
                connection.execute(sql.SQL("CREATE EXTENSION {}").format(sql.Identifier(extension)))
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(name)))
        connection.execute(statements)
        connection.execute("RESET ROLE")
        database = sql.Identifier(name)
        connection.execute(sql.SQL("ALTER DATABASE {} SET work_mem = '16MB'").format(database))
        connection.execute(sql.SQL("COMMENT ON DATABASE {} IS 'demo homelab'").format(database))
        connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO reports").format(database))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ANALYZE")
