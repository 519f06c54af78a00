"""The comparison of a restored copy can fail: whatever is changed in the copy is named, and nothing else is."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from psycopg import sql

from homelab_pipelines.backup.database_sql import property_statements
from homelab_pipelines.backup.manifest import Manifest
from homelab_pipelines.backup.restored_copy import RestoreOptions, compare_restored
from tests.integration.backup.conftest import capture, connection_to, directory_store, restore
from tests.peers.postgres import PostgresPeer, fill_example, server_of

pytestmark = pytest.mark.postgres

OPTIONS = RestoreOptions(scratch=True, jobs=1)
# What of a routine may be changed: each on a copy of this one.
_ROUTINE = "FUNCTION {}(a integer DEFAULT 1) RETURNS SETOF integer LANGUAGE sql"
ROUTINE_CHANGES = {
    "app.volatility": "ALTER FUNCTION {} STABLE",
    "app.strictness": "ALTER FUNCTION {} STRICT",
    "app.leaks": "ALTER FUNCTION {} LEAKPROOF",
    "app.parallelism": "ALTER FUNCTION {} PARALLEL SAFE",
    "app.cost": "ALTER FUNCTION {} COST 7",
    "app.row_count": "ALTER FUNCTION {} ROWS 7",
    "app.setting": "ALTER FUNCTION {} SET work_mem = '5MB'",
    "app.argument": f"CREATE OR REPLACE {_ROUTINE.replace('1', '2')} AS 'SELECT a'",
    "app.language": "CREATE OR REPLACE "
    + _ROUTINE.replace("LANGUAGE sql", "LANGUAGE plpgsql")
    + " AS 'BEGIN RETURN NEXT a; END'",
    "app.body": f"CREATE OR REPLACE {_ROUTINE} BEGIN ATOMIC SELECT a; END",
}


@dataclass(frozen=True)
class Restored:
    """A backup of the example, and a database restored from it that serves as the template of copies."""

    server: PostgresPeer
    manifest: Manifest
    name: str

    def copy(self) -> str:
        """A fresh copy of the restored database, equal to it in all that the evidence covers."""
        name = f"copy_{secrets.token_hex(6)}"
        assert self.manifest.evidence.database is not None
        with self.server.connect() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(self.name))
            )
            for statement in property_statements(name, self.manifest.evidence.database, owners=True):
                connection.execute(statement.encode())
        return name

    def differences(self, name: str) -> list[str]:
        return compare_restored(connection_to(self.server), name, self.manifest, OPTIONS)[0]


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restored]:
    server = server_of(17)
    database = server.create_database()
    fill_example(database.dsn)
    with database.connect() as connection:
        for statement in (
            "CREATE TABLE app.plain (id integer PRIMARY KEY, word text DEFAULT 'none', size integer NOT NULL)",
            "INSERT INTO app.plain SELECT n, 'word ' || n, n FROM generate_series(1, 50) AS n",
            "CREATE INDEX plain_size ON app.plain (size)",
            "ALTER TABLE app.plain ADD CONSTRAINT small CHECK (size < 1000)",
            "CREATE TEXT SEARCH DICTIONARY app.words_dict (TEMPLATE = simple)",
            "CREATE OPERATOR FAMILY app.family USING btree",
            "CREATE CONVERSION app.to_latin FOR 'UTF8' TO 'LATIN1' FROM utf8_to_iso8859_1",
            "COMMENT ON EVENT TRIGGER example_event_trigger IS 'seen'",
            "CREATE SCHEMA published",
            "CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA published",
            "COMMENT ON CAST (app.mood AS integer) IS 'cast'",
        ):
            connection.execute(statement.encode())
        for routine in ROUTINE_CHANGES:
            connection.execute(f"CREATE {_ROUTINE.format(routine)} AS 'SELECT a'".encode())
    store = directory_store(tmp_path_factory.mktemp("store") / "nas")
    manifest = capture(server, database.name, store).manifest
    name = f"template_{secrets.token_hex(6)}"
    assert restore(server, name, store, manifest, scratch=True).differences == []
    yield Restored(server, manifest, name)
    for each in (database.name, name):
        server.drop_database(each)


@pytest.fixture(scope="module")
def unchanged_copy(restored: Restored) -> Iterator[str]:
    name = restored.copy()
    yield name
    restored.server.drop_database(name)


def test_unchanged_copy_has_no_difference(restored: Restored, unchanged_copy: str) -> None:
    assert restored.differences(unchanged_copy) == []


# SQL that is run in the copy ({name} is its name) → what the one difference that it makes must say.
CHANGES = [
    ("UPDATE app.plain SET word = 'wird 7' WHERE id = 7", "table app.plain: the same 50 rows in number, but not in"),
    ("UPDATE app.plain SET size = size + 1 WHERE id IN (3, 4)", "table app.plain: the same 50 rows in number"),
    ("DELETE FROM app.plain WHERE id = 50", "table app.plain: 50 rows in the source, 49 restored"),
    ("INSERT INTO app.plain VALUES (51, 'more', 51)", "table app.plain: 50 rows in the source, 51 restored"),
    ("TRUNCATE app.plain", "table app.plain: 50 rows in the source, 0 restored"),
    ("UPDATE app.plain SET word = NULL WHERE id = 1", "table app.plain: the same 50 rows"),
    ("UPDATE app.plain SET word = '' WHERE id = 1", "table app.plain: the same 50 rows"),
    ("UPDATE app.odd_values SET large = '0' WHERE n = 1", "table app.odd_values: the same 4 rows"),
    ("UPDATE app.odd_values SET span = '9 mons 3 days' WHERE n = 1", "table app.odd_values: the same 4 rows"),
    ("UPDATE app.child SET extra = 'y' WHERE id = 4", "table app.child: the same 5 rows"),
    ("DELETE FROM app.event WHERE at < '2025-06-15'", "table app.event_2025: "),
    ("UPDATE app.unlogged SET note = 'lost'", "table app.unlogged: the same 4 rows"),
    ("DROP TABLE app.duplicates", "table app.duplicates is missing from the restored copy"),
    ("CREATE TABLE app.extra ()", "table app.extra is in the restored copy only"),
    ("ALTER TABLE app.plain ALTER size TYPE bigint", "column app.plain.size is defined differently"),
    ("ALTER TABLE app.plain ALTER word SET DEFAULT 'some'", "column app.plain.word is defined differently"),
    ("ALTER TABLE app.plain ALTER size DROP NOT NULL", "column app.plain.size is defined differently"),
    ("ALTER TABLE app.plain ALTER word SET STORAGE PLAIN", "column app.plain.word is defined differently"),
    ("ALTER TABLE app.plain RENAME word TO term", "column app.plain.word is missing"),
    ("GRANT SELECT (word) ON app.plain TO example_reader", "column app.plain.word is defined differently"),
    ("DROP INDEX app.plain_size", "index app.plain_size is missing from the restored copy"),
    (
        "DROP INDEX app.plain_size; CREATE INDEX plain_size ON app.plain (size DESC)",
        "index app.plain_size is defined differently",
    ),
    ("ALTER TABLE app.plain DROP CONSTRAINT small", "constraint small on app.plain is missing"),
    ("ALTER TABLE app.plain DROP CONSTRAINT plain_pkey", "constraint plain_pkey on app.plain is missing"),
    ("ALTER TABLE app.person DROP CONSTRAINT friend", "constraint friend on app.person is missing"),
    ("ALTER DOMAIN app.email DROP CONSTRAINT email_check", "constraint email_check on app.email is missing"),
    ("ALTER TABLE app.person DISABLE TRIGGER touch", "trigger touch on app.person is defined differently"),
    ("DROP TRIGGER touch ON app.person", "trigger touch on app.person is missing"),
    (
        "CREATE OR REPLACE PROCEDURE app.nothing_done() LANGUAGE plpgsql AS 'BEGIN PERFORM 1; END'",
        "routine app.nothing_done() is defined differently",
    ),
    ("ALTER FUNCTION app.touch() SECURITY INVOKER", "routine app.touch() is defined differently"),
    ("GRANT EXECUTE ON FUNCTION app.twice(integer) TO PUBLIC", "routine app.twice(value integer) is defined differ"),
    ("CREATE OR REPLACE VIEW app.written AS SELECT id, note || '!' AS note FROM app.unlogged", "view app.written is"),
    ("ALTER VIEW app.happy RESET (security_barrier)", "view app.happy is defined differently"),
    ("DROP RULE written_insert ON app.written", "rule written_insert on app.written is missing"),
    ("DROP MATERIALIZED VIEW app.unpopulated", "materialised view app.unpopulated is missing"),
    ("REFRESH MATERIALIZED VIEW app.unpopulated", "materialised view app.unpopulated is defined differently"),
    ("GRANT SELECT ON app.plain TO example_reader", "table app.plain is defined differently"),
    ("ALTER TABLE app.plain OWNER TO example_owner", "table app.plain is defined differently"),
    ("COMMENT ON TABLE app.plain IS 'new'", "table app.plain is defined differently"),
    ("COMMENT ON COLUMN app.plain.word IS 'new'", "column app.plain.word is defined differently"),
    ("COMMENT ON FUNCTION app.touch() IS 'new'", "routine app.touch() is defined differently"),
    ("COMMENT ON CONSTRAINT friend ON app.person IS NULL", "constraint friend on app.person is defined differently"),
    (
        "COMMENT ON EVENT TRIGGER example_event_trigger IS 'new'",
        "comment on event trigger example_event_trigger is defined",
    ),
    ("COMMENT ON CAST (app.mood AS integer) IS 'new'", "comment on cast (app.mood AS integer) is defined"),
    ("COMMENT ON PUBLICATION example_publication IS 'new'", "comment on publication example_publication is in"),
    ("COMMENT ON EXTENSION pg_trgm IS 'new'", "comment on extension pg_trgm is defined"),
    ("ALTER EXTENSION hstore SET SCHEMA app", "schema of extension hstore is defined differently"),
    ("SELECT setval('app.descending', 4)", "sequence app.descending: "),
    ("SELECT nextval('app.counter_id_seq')", "sequence app.counter_id_seq: "),
    ("SELECT setval('app.untouched', 99, true)", "sequence app.untouched: "),
    ("ALTER SEQUENCE app.cycling NO CYCLE", "sequence rules app.cycling is defined differently"),
    ("ALTER SEQUENCE app.descending INCREMENT BY -4", "sequence rules app.descending is defined differently"),
    ("ALTER SEQUENCE app.counter_id_seq OWNED BY NONE", "sequence rules app.counter_id_seq is defined differently"),
    ("DROP EXTENSION btree_gist", "extension btree_gist is missing from the restored copy"),
    ("CREATE EXTENSION fuzzystrmatch", "extension fuzzystrmatch is in the restored copy only"),
    ("SELECT lo_put(910001, 2, 'LARGE')", "large objects: the same 3 in number, but not in content"),
    ("SELECT lo_unlink(910002)", "large objects: 3 in the source, 2 restored"),
    ("ALTER LARGE OBJECT 910003 OWNER TO postgres", "large object 910003 is defined differently"),
    ("COMMENT ON LARGE OBJECT 910001 IS 'new'", "large object 910001 is defined differently"),
    ("ALTER TYPE app.mood RENAME VALUE 'sad' TO 'blue'", "type app.mood is defined differently"),
    ("ALTER TYPE app.mood ADD VALUE 'elated'", "type app.mood is defined differently"),
    ("ALTER TYPE app.place ADD ATTRIBUTE country text", "column app.place.country is in the restored copy only"),
    ("ALTER DOMAIN app.email SET NOT NULL", "type app.email is defined differently"),
    ("DROP POLICY no_sad ON app.person", "policy no_sad on app.person is missing"),
    ("ALTER POLICY own_rows ON app.person USING (true)", "policy own_rows on app.person is defined differently"),
    ("ALTER TABLE app.person NO FORCE ROW LEVEL SECURITY", "table app.person is defined differently"),
    ("ALTER TABLE app.person SET (fillfactor = 70)", "table app.person is defined differently"),
    ("ALTER TABLE app.counter REPLICA IDENTITY DEFAULT", "table app.counter is defined differently"),
    ("ALTER TABLE app.unlogged SET LOGGED", "table app.unlogged is defined differently"),
    ("ALTER TABLE app.event DETACH PARTITION app.event_other", "table app.event_other is defined differently"),
    ("DROP STATISTICS app.person_statistics", "statistics app.person_statistics is missing"),
    ("ALTER STATISTICS app.person_statistics SET STATISTICS 77", "statistics app.person_statistics is defined"),
    ("DROP CAST (app.mood AS integer)", "cast app.mood as integer is missing"),
    ("DROP AGGREGATE app.product(integer)", "routine app.product(integer) is missing"),
    ("DROP OPERATOR app.=~= (integer, integer)", "operator app.=~=(integer,integer) is missing"),
    ("DROP OPERATOR FAMILY app.family USING btree", "operator family app.family"),
    ("DROP CONVERSION app.to_latin", "conversion app.to_latin is missing"),
    ("ALTER COLLATION app.plain OWNER TO example_owner", "collation app.plain is defined differently"),
    (
        "ALTER TEXT SEARCH CONFIGURATION app.words DROP MAPPING FOR asciiword",
        "text search configuration app.words is defined differently",
    ),
    ("DROP TEXT SEARCH DICTIONARY app.words_dict", "text search dictionary app.words_dict is missing"),
    (
        "ALTER DEFAULT PRIVILEGES FOR ROLE example_owner IN SCHEMA app REVOKE SELECT ON TABLES FROM example_reader",
        "default privileges example_owner in app r is missing",
    ),
    ("ALTER EVENT TRIGGER example_event_trigger DISABLE", "event trigger example_event_trigger is defined differ"),
    ("ALTER PUBLICATION example_publication DROP TABLE app.event", "publication example_publication is defined"),
    (
        "ALTER PUBLICATION example_publication SET TABLE app.counter (id, note) WHERE (id > 3), TABLE app.event",
        "publication example_publication is defined differently",
    ),
    ("ALTER PUBLICATION of_schema SET TABLES IN SCHEMA public", "publication of_schema is defined differently"),
    ("ALTER SERVER example_server OPTIONS (SET host 'elsewhere')", "foreign server example_server is defined"),
    ("ALTER FOREIGN DATA WRAPPER example_wrapper OPTIONS (DROP debug)", "foreign data wrapper example_wrapper is"),
    (
        "ALTER USER MAPPING FOR example_login SERVER example_server OPTIONS (DROP password)",
        "user mapping of example_login on example_server is defined differently",
    ),
    ("ALTER FOREIGN TABLE app.elsewhere OPTIONS (SET name 'x')", "foreign table app.elsewhere is defined differ"),
    ("ALTER SCHEMA app OWNER TO postgres", "schema app is defined differently"),
    ("REVOKE CREATE ON SCHEMA app FROM example_group", "schema app is defined differently"),
    ("CREATE SCHEMA more", "schema more is in the restored copy only"),
    ("ALTER DATABASE {name} SET work_mem = '6MB'", "database settings: "),
    ("ALTER ROLE example_reader IN DATABASE {name} RESET lock_timeout", "database settings: "),
    ("ALTER DATABASE {name} CONNECTION LIMIT 54", "database connection_limit: 55 in the source, 54 restored"),
    ("ALTER DATABASE {name} OWNER TO example_group", "database owner: 'example_owner' in the source"),
    ("GRANT CONNECT ON DATABASE {name} TO PUBLIC", "database privileges: "),
    ("COMMENT ON DATABASE {name} IS 'new'", "database comment: "),
    *(
        (change.format(name), f"routine {name}(a integer) is defined differently")
        for name, change in ROUTINE_CHANGES.items()
    ),
]


def in_batches() -> list[list[tuple[str, str]]]:
    """The changes in groups that name no object twice, as a copy for each of them would take minutes."""
    batches: list[tuple[set[str], list[tuple[str, str]]]] = []
    for change, expected in CHANGES:
        objects = set(re.findall(r"app\.\w+|example_\w+|{name}|\b91\d+|\blo_", change))
        for taken, batch in batches:
            if not taken & objects and len(batch) < 10:  # far from the number of lines at which a report is cut
                break
        else:
            taken, batch = set(), []
            batches.append((taken, batch))
        taken |= objects
        batch.append((change, expected))
    return [batch for _, batch in batches]


@pytest.mark.parametrize("batch", in_batches(), ids=lambda batch: batch[0][0][:60])
def test_changes_in_the_copy_are_named(restored: Restored, batch: list[tuple[str, str]]) -> None:
    name = restored.copy()
    try:
        with restored.server.connect(name) as connection:
            for change, _ in batch:
                connection.execute(change.format(name=f'"{name}"').encode())
        differences = restored.differences(name)
    finally:
        restored.server.drop_database(name)
    unnamed = [case for case in batch if not any(line.startswith(case[1]) for line in differences)]
    assert unnamed == [], differences


# Roles are the server's: what is changed is changed back.
ROLE_CHANGES = [
    ("ALTER ROLE example_login CONNECTION LIMIT 8", "ALTER ROLE example_login CONNECTION LIMIT 7"),
    ("ALTER ROLE example_login NOLOGIN", "ALTER ROLE example_login LOGIN"),
    ("ALTER ROLE example_login CREATEDB", "ALTER ROLE example_login NOCREATEDB"),
    ("ALTER ROLE example_login VALID UNTIL '2098-01-01'", "ALTER ROLE example_login VALID UNTIL '2099-01-01 00:00Z'"),
    ("ALTER ROLE example_login SET search_path = app", "ALTER ROLE example_login SET search_path = app, public"),
    ("COMMENT ON ROLE example_login IS 'new'", "COMMENT ON ROLE example_login IS NULL"),
    ("GRANT example_owner TO example_login", "REVOKE example_owner FROM example_login"),
    (
        "REVOKE ADMIN OPTION FOR example_group FROM example_login",
        "GRANT example_group TO example_login WITH ADMIN OPTION",
    ),
    (
        "GRANT example_group TO example_login WITH INHERIT FALSE",
        "GRANT example_group TO example_login WITH INHERIT TRUE",
    ),
    ("GRANT example_group TO example_login WITH SET FALSE", "GRANT example_group TO example_login WITH SET TRUE"),
]


@pytest.mark.parametrize(("change", "back"), ROLE_CHANGES, ids=lambda text: str(text)[:60])
def test_change_of_a_role_is_named(restored: Restored, unchanged_copy: str, change: str, back: str) -> None:
    with restored.server.connect() as connection:
        connection.execute(change.encode())
        try:
            differences = restored.differences(unchanged_copy)
        finally:
            connection.execute(back.encode())
    assert differences == ["role example_login is defined differently"]
    assert restored.differences(unchanged_copy) == []


def test_changed_password_of_a_role_is_named(restored: Restored, unchanged_copy: str) -> None:
    with restored.server.connect() as connection:
        row = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'example_login'").fetchone()
        assert row is not None
        connection.execute("ALTER ROLE example_login PASSWORD 'another'")
        try:
            differences = restored.differences(unchanged_copy)
        finally:
            connection.execute(sql.SQL("ALTER ROLE example_login PASSWORD {}").format(row[0]))
    assert differences == ["role example_login is defined differently"]


def test_missing_and_additional_role_are_named(restored: Restored, unchanged_copy: str) -> None:
    with restored.server.connect() as connection:
        connection.execute("CREATE ROLE newcomer")
        try:
            assert restored.differences(unchanged_copy) == ["role newcomer is in the restored copy only"]
        finally:
            connection.execute("DROP ROLE newcomer")
        connection.execute("ALTER ROLE example_login RENAME TO example_renamed")
        try:
            assert "role example_login is missing from the restored copy" in restored.differences(unchanged_copy)
        finally:
            connection.execute("ALTER ROLE example_renamed RENAME TO example_login")


def test_table_that_is_only_counted_is_said_so(restored: Restored, unchanged_copy: str) -> None:
    tables = [
        table.model_copy(update={"content_hash": None}) if table.name == "app.plain" else table
        for table in restored.manifest.evidence.tables
    ]
    evidence = restored.manifest.evidence.model_copy(update={"tables": tables})
    manifest = restored.manifest.model_copy(update={"evidence": evidence})
    differences, notes = compare_restored(connection_to(restored.server), unchanged_copy, manifest, OPTIONS)
    assert differences == []
    assert "counted, not hashed (larger than the inventory's limit): app.plain" in notes


def test_very_many_differences_are_cut_short(restored: Restored) -> None:
    name = restored.copy()
    try:
        with restored.server.connect(name) as connection:
            connection.execute("DROP SCHEMA app CASCADE")
        differences = restored.differences(name)
    finally:
        restored.server.drop_database(name)
    assert any(line.endswith("more differences") for line in differences)
