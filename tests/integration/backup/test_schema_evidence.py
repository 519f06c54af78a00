"""Columns that pg_dump moves are no difference of the restored copy; what was changed in them still is."""

from __future__ import annotations

import pytest

from homelab_pipelines.backup import evidence
from homelab_pipelines.backup.restored_copy import RestoreOptions, compare_restored
from homelab_pipelines.backup.stores.directory import DirectoryStore
from tests.integration.backup.conftest import capture, connection_to, restore, verify
from tests.peers.postgres import FreshDatabase, PostgresPeer, every_major

pytestmark = pytest.mark.postgres

# As Odoo's ir_actions and its children: the parent gained columns after the children were made, which pg_dump moves
# before the children's own.
INHERITANCE = [
    "CREATE TABLE actions (id integer PRIMARY KEY, name text)",
    "CREATE TABLE window_actions (target text, size integer DEFAULT 5) INHERITS (actions)",
    "CREATE TABLE more_actions (extra text) INHERITS (window_actions)",
    "CREATE TABLE marks (mark text, name text)",
    "CREATE TABLE marked_actions (own integer) INHERITS (actions, marks)",
    """ALTER TABLE actions ADD COLUMN "Help" text, ADD COLUMN binding integer DEFAULT 3""",
    "ALTER TABLE marks ADD COLUMN seen date",
    "ALTER TABLE window_actions ADD COLUMN late text",
    "ALTER TABLE window_actions DROP COLUMN size",
    "CREATE STATISTICS related ON target, binding FROM window_actions",
    "CREATE INDEX ON window_actions (target, binding)",
    "GRANT SELECT (target, binding) ON window_actions TO PUBLIC",
    "INSERT INTO window_actions SELECT n, 'n', 't', 'h', n FROM generate_series(1, 40) AS n",
    "INSERT INTO more_actions (id, name, target, extra) SELECT n, 'n', 't', 'e' FROM generate_series(1, 9) n",
    "INSERT INTO marked_actions (id, name, mark, own, seen) VALUES (1, 'n', 'm', 2, '2026-01-02')",
    "CREATE TABLE bare ()",
    "CREATE TABLE bare_child () INHERITS (bare)",
    "INSERT INTO bare_child DEFAULT VALUES",
]
# A partition keeps its own order of columns, which is compared.
PARTITIONS = [
    "CREATE TABLE event (at date NOT NULL, kind text, size integer) PARTITION BY RANGE (at)",
    "CREATE TABLE old_event (size integer, gone text, kind text, at date NOT NULL)",
    "ALTER TABLE old_event DROP COLUMN gone",
    "ALTER TABLE event ATTACH PARTITION old_event FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')",
    "CREATE TABLE new_event PARTITION OF event FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')",
    "ALTER TABLE event ADD COLUMN late text DEFAULT 'x'",
    "INSERT INTO event SELECT date '2020-06-01' + n, 'k', n FROM generate_series(1, 400) AS n",
]


@every_major
def test_columns_that_pg_dump_moves_are_no_difference(fresh_database: FreshDatabase, nas: DirectoryStore) -> None:
    with fresh_database.connect() as connection:
        for statement in [*INHERITANCE, *PARTITIONS]:
            connection.execute(statement.encode())
    manifest = capture(fresh_database.server, fresh_database.name, nas).manifest
    assert all(table.content_hash for table in manifest.evidence.tables)
    (proof,) = verify(manifest, nas)
    assert (proof.result, proof.differences) == ("equal", [])


CHANGES = [
    ("UPDATE window_actions SET binding = 0 WHERE id = 3", "table public.window_actions: the same 40 rows"),
    ('UPDATE window_actions SET target = "Help", "Help" = target', "table public.window_actions: the same 40 rows"),
    ("ALTER TABLE window_actions ALTER target SET NOT NULL", "column public.window_actions.target is defined"),
    ("ALTER TABLE window_actions NO INHERIT actions", "table public.window_actions is defined differently"),
    ("DROP STATISTICS related", "statistics public.related is missing from the restored copy"),
    (
        "DROP STATISTICS related; CREATE STATISTICS related ON late, binding FROM window_actions",
        "statistics public.related is defined differently",
    ),
    ("UPDATE old_event SET size = size + 1 WHERE size = 5", "table public.old_event: the same 213 rows"),
]


def test_changes_of_tables_that_inherit_are_named(
    postgres_server: PostgresPeer, fresh_database: FreshDatabase, nas: DirectoryStore
) -> None:
    with fresh_database.connect() as connection:
        for statement in [*INHERITANCE, *PARTITIONS]:
            connection.execute(statement.encode())
    manifest = capture(postgres_server, fresh_database.name, nas).manifest
    assert manifest.evidence.form == evidence.FORM
    name = f"{fresh_database.name}_copy"
    try:
        for change, expected in CHANGES:
            restore(postgres_server, name, nas, manifest)
            with postgres_server.connect(name) as connection:
                connection.execute(change.encode())
            differences, _ = compare_restored(connection_to(postgres_server), name, manifest, RestoreOptions())
            assert [line for line in differences if line.startswith(expected)], (change, differences)
            postgres_server.drop_database(name)
    finally:
        postgres_server.drop_database(name)


def test_backup_of_an_earlier_form_counts_tables_that_inherit(
    postgres_server: PostgresPeer, fresh_database: FreshDatabase, nas: DirectoryStore
) -> None:
    """Their hashes were taken by position, which says nothing of a copy whose columns were moved."""
    with fresh_database.connect() as connection:
        for statement in INHERITANCE:
            connection.execute(statement.encode())
    manifest = capture(postgres_server, fresh_database.name, nas).manifest
    tables = [
        table.model_copy(update={"content_hash": "1" if table.name == "public.window_actions" else table.content_hash})
        for table in manifest.evidence.tables
    ]
    found = manifest.evidence.model_copy(update={"form": 2, "tables": tables})
    manifest = manifest.model_copy(update={"evidence": found})
    target, name = connection_to(postgres_server), fresh_database.name
    differences, notes = compare_restored(target, name, manifest, RestoreOptions())
    assert differences == []
    assert any("tables that inherit not compared: recorded in form 2" in note for note in notes)
    with fresh_database.connect() as connection:
        connection.execute("DELETE FROM ONLY window_actions WHERE id = 1")
        connection.execute("INSERT INTO marks VALUES ('m')")
    differences, _ = compare_restored(target, name, manifest, RestoreOptions())
    assert sorted(differences) == [
        "table public.marks: 0 rows in the source, 1 restored",
        "table public.window_actions: 40 rows in the source, 39 restored",
    ]
