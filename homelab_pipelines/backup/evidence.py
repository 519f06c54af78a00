"""What is recorded of a database in the dump's snapshot, and how a restored copy is compared with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from homelab_pipelines.backup.local_server import SCRATCH_SUPERUSER
from homelab_pipelines.backup.manifest import (
    DatabaseProperties,
    Evidence,
    LargeObjectEvidence,
    NotCarried,
    SequenceEvidence,
    TableEvidence,
)
from homelab_pipelines.backup.schema_queries import schema_queries
from homelab_pipelines.backup.session import Session, printable, text_bytes

_LISTED_DIFFERENCES = 50
_LARGEST_WHOLE_READ = 1 << 30  # lo_get and row::text give one value, and a value has at most 1 GiB


FORM = 2
"""The form of `Evidence.objects` and `Evidence.roles`. Raise it with every change of the queries that make them, or the
backups of before would be found different; a unit test holds the queries' digest."""


@dataclass(frozen=True)
class Relation:
    """A relation that holds rows: its quoted name for SQL, its kind, bytes on disk, and whether it can be locked."""

    name: str
    kind: str
    bytes: int
    lockable: bool

    @property
    def label(self) -> str:
        """The name as manifests and messages show it."""
        return printable(self.name)


_RELATIONS = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name, c.relkind::text AS kind,
    c.relpersistence::text AS persistence,
    coalesce(pg_table_size(c.oid), 0) AS bytes, -- NULL: dropped since the snapshot; locking it will tell
    (SELECT e.extname FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
     WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e' LIMIT 1) AS extension
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1"""


def relations(session: Session) -> tuple[list[Relation], list[NotCarried]]:
    """The tables and materialised views whose rows a dump holds, and the relations whose rows it does not, with why."""
    held: list[Relation] = []
    left_out: list[NotCarried] = []
    for row in session.rows(_RELATIONS):
        if row["kind"] == "f":
            why = "a foreign table's rows stand on another server; its definition is carried"
            left_out.append(NotCarried(what=f"rows of {printable(row['name'])}", why=why))
        elif row["extension"]:
            why = (
                f"it belongs to extension {row['extension']}, which recreates it; only what the extension marks is kept"
            )
            left_out.append(NotCarried(what=f"rows of {printable(row['name'])}", why=why))
        else:
            kind = "materialised view" if row["kind"] == "m" else "table"
            held.append(Relation(row["name"], kind, int(row["bytes"]), lockable=row["kind"] == "r"))
    for row in session.rows(
        "SELECT i.indexrelid::regclass::text AS name FROM pg_catalog.pg_index i"
        " JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid"
        " WHERE c.relkind = 'i' AND NOT (i.indisvalid AND i.indisready)"
    ):
        left_out.append(
            NotCarried(what=f"index {printable(row['name'])}", why="it is invalid on the source; pg_dump leaves it out")
        )
    for row in session.rows(
        "SELECT quote_ident(subname) AS name FROM pg_catalog.pg_stat_subscription WHERE subname <> ''"
    ):
        why = "it is carried disabled, and not created by a verification: enable it by hand after a restore"
        left_out.append(NotCarried(what=f"subscription {printable(row['name'])}", why=why))
    return held, left_out


def lock(session: Session, held: Iterable[Relation]) -> None:
    """Keep every table as it is defined until the transaction ends, as pg_dump does (ACCESS SHARE)."""
    names = [relation.name for relation in held if relation.lockable]
    for start in range(0, len(names), 100):
        session.execute(
            f"LOCK TABLE {', '.join(f'ONLY {name}' for name in names[start : start + 100])} IN ACCESS SHARE MODE"
        )


def table_evidence(session: Session, relation: Relation, hashed: bool) -> TableEvidence:
    """Row count and, if `hashed`, the order-independent content hash of one relation.

    The hash is sum(hashtextextended(row::text, 0)): 64 bits a row, stable across servers of one major version.
    """
    if relation.kind == "materialised view":
        return TableEvidence(name=relation.label, kind="materialised view", rows=None, bytes=relation.bytes)
    content = "coalesce(sum(hashtextextended(homelab_row::text, 0)::numeric), 0)::text" if hashed else "NULL::text"
    row = session.rows(f"SELECT count(*) AS rows, {content} AS hash FROM ONLY {relation.name} AS homelab_row")[0]
    return TableEvidence(
        name=relation.label, kind="table", rows=int(row["rows"]), bytes=relation.bytes, content_hash=row["hash"]
    )


def tables(
    session: Session, held: Iterable[Relation], hash_limit: int, progress: Callable[[str], None] | None = None
) -> list[TableEvidence]:
    """Evidence of every relation; one larger than `hash_limit` bytes gets a row count only."""
    found = []
    for relation in held:
        if progress is not None:
            progress(relation.label)
        found.append(table_evidence(session, relation, hashed=relation.bytes <= hash_limit))
    return found


def large_objects(session: Session, hash_limit: int) -> LargeObjectEvidence:
    """Count and content hash of the large objects; the hash only where all of them together stay below the limit."""
    size = int(session.rows("SELECT pg_table_size('pg_catalog.pg_largeobject') AS bytes")[0]["bytes"])
    content = (
        "coalesce(sum(hashtextextended(oid::text || ':' || md5(lo_get(oid)), 0)::numeric), 0)::text"
        if size <= min(hash_limit, _LARGEST_WHOLE_READ)
        else "NULL::text"
    )
    row = session.rows(f"SELECT count(*) AS count, {content} AS hash FROM pg_catalog.pg_largeobject_metadata")[0]
    return LargeObjectEvidence(count=int(row["count"]), content_hash=row["hash"])


_SEQUENCES = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name, s.seqincrement AS increment, s.seqcycle AS cycle
FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1"""


def sequence_values(session: Session) -> dict[str, tuple[int, bool, int, bool]]:
    """For each sequence: last_value, is_called, increment, cycle."""
    rules = session.rows(_SEQUENCES)
    values: dict[str, tuple[int, bool, int, bool]] = {}
    for start in range(0, len(rules), 200):
        part = rules[start : start + 200]
        union = " UNION ALL ".join(
            f"SELECT {number} AS number, last_value, is_called FROM {rule['name']}" for number, rule in enumerate(part)
        )
        for row in session.rows(union):
            rule = part[row["number"]]
            values[printable(rule["name"])] = (
                int(row["last_value"]),
                bool(row["is_called"]),
                int(rule["increment"]),
                bool(rule["cycle"]),
            )
    return values


def sequences(
    before: dict[str, tuple[int, bool, int, bool]], after: dict[str, tuple[int, bool, int, bool]]
) -> list[SequenceEvidence]:
    """The values around the dump; a sequence that came or went meanwhile is left to the schema's comparison."""
    return [
        SequenceEvidence(name=name, before=(value, called), after=after[name][:2], increment=increment, cycle=cycle)
        for name, (value, called, increment, cycle) in before.items()
        if name in after
    ]


def schema_objects(session: Session, server_version: int) -> dict[str, str]:
    """Each schema object's identity and a digest (64 bits, hex) of its definition."""
    found: dict[str, str] = {}
    for query in schema_queries(server_version):
        for row in session.rows(query):
            digest = hashlib.sha256(text_bytes(row["definition"] or "")).hexdigest()[:16]
            identity = printable(row["identity"])
            while identity in found:  # overloads that print alike: both are kept
                identity += "'"
            found[identity] = digest
    return found


def extensions(session: Session) -> dict[str, str]:
    """Installed extensions and their versions."""
    rows = session.rows("SELECT extname, extversion FROM pg_catalog.pg_extension")
    return {row["extname"]: row["extversion"] for row in rows}


def database_properties(session: Session, server_version: int) -> DatabaseProperties:
    """What CREATE DATABASE, ALTER DATABASE and GRANT ON DATABASE said of the current database."""
    locale = (
        "d.datlocale" if server_version >= 170000 else ("d.daticulocale" if server_version >= 150000 else "NULL::text")
    )
    provider = "d.datlocprovider::text" if server_version >= 150000 else "'c'::text"
    rules = "d.daticurules" if server_version >= 160000 else "NULL::text"
    row = session.rows(
        f"""SELECT pg_encoding_to_char(d.encoding) AS encoding, {provider} AS provider, d.datcollate AS collate,
        d.datctype AS ctype, {locale} AS locale, {rules} AS rules, pg_get_userbyid(d.datdba) AS owner,
        d.datconnlimit AS connection_limit, shobj_description(d.oid, 'pg_database') AS comment
        FROM pg_catalog.pg_database d WHERE d.datname = current_database()"""
    )[0]
    privileges = session.rows(
        """SELECT format('GRANT %s ON DATABASE {database} TO %s%s', a.privilege_type,
        CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) AS statement
        FROM pg_catalog.pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
        WHERE d.datname = current_database() ORDER BY 1"""
    )
    settings = session.rows(
        """SELECT CASE WHEN s.setrole = 0 THEN '' ELSE quote_ident(pg_get_userbyid(s.setrole)) || ': ' END || c
        AS setting FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase,
        unnest(s.setconfig) c
        WHERE d.datname = current_database() ORDER BY 1"""
    )
    return DatabaseProperties(
        encoding=row["encoding"],
        provider={"c": "libc", "i": "icu", "b": "builtin"}[row["provider"]],
        collate=row["collate"] or "C",
        ctype=row["ctype"] or "C",
        locale=row["locale"],
        icu_rules=row["rules"],
        owner=printable(row["owner"]),
        connection_limit=int(row["connection_limit"]),
        privileges=[printable(item["statement"]) for item in privileges],
        settings=[printable(item["setting"]) for item in settings],
        comment=row["comment"] and printable(row["comment"]),
    )


def can_read_passwords(session: Session) -> bool:
    """Whether this account may read password verifiers, which pg_dumpall needs for complete globals."""
    return bool(session.rows("SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT') AS may")[0]["may"])


# What the grants of one role to one member come to together, whoever gave them; from 16 on also INHERIT and SET.
_MEMBERSHIPS = """SELECT m.roleid, bool_or(m.admin_option) AS admin,
    bool_or((to_jsonb(m) ->> 'inherit_option')::boolean) AS inherit,
    bool_or((to_jsonb(m) ->> 'set_option')::boolean) AS set FROM pg_catalog.pg_auth_members m"""


def roles(session: Session, with_passwords: bool) -> dict[str, str]:
    """Each role (not the system's own) and a digest of its attributes, memberships, settings and password verifier.

    A digest stands in the clear, so nothing is in it that could be guessed with its help: of a verifier without a
    random salt (md5) only that there is one, of an application's settings, which may be secrets, only the names.
    """
    catalogue, password = ("pg_authid", "r.rolpassword") if with_passwords else ("pg_roles", "NULL::text")
    rows = session.rows(
        f"""SELECT r.rolname AS name, concat_ws(' | ', r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb,
        r.rolcanlogin, r.rolreplication, r.rolbypassrls, r.rolconnlimit, coalesce(r.rolvaliduntil::text, '-'),
        coalesce(CASE WHEN {password} LIKE 'SCRAM-SHA-256$%' THEN {password} ELSE left({password}, 3) END, '-'),
        coalesce((SELECT string_agg(
            concat_ws(':', quote_ident(pg_get_userbyid(g.roleid)), g.admin, g.inherit, g.set), ' '
            ORDER BY pg_get_userbyid(g.roleid)) FROM ({_MEMBERSHIPS} WHERE m.member = r.oid GROUP BY m.roleid) g), '-'),
        coalesce((SELECT string_agg(CASE WHEN split_part(c, '=', 1) LIKE '%.%' THEN split_part(c, '=', 1) ELSE c END,
            ' ' ORDER BY c COLLATE "C") FROM pg_catalog.pg_db_role_setting s, unnest(s.setconfig) c
            WHERE s.setrole = r.oid AND s.setdatabase = 0), '-'),
        coalesce(shobj_description(r.oid, 'pg_authid'), '-')) AS definition
        FROM pg_catalog.{catalogue} r WHERE r.rolname !~ '^pg_' AND r.rolname <> '{SCRATCH_SUPERUSER}'"""
    )
    return {printable(row["name"]): hashlib.sha256(text_bytes(row["definition"])).hexdigest()[:16] for row in rows}


def compare_tables(
    expected: Iterable[TableEvidence],
    connect: Callable[[], AbstractContextManager[Session]],
    workers: int,
    progress: Callable[[str], None] | None = None,
) -> list[str]:
    """Count, and where the source was hashed hash, every table of a restored copy; a line for each that differs.

    `workers` sessions share the tables, largest first; each is one that `connect` opens.
    """
    waiting = sorted((t for t in expected if t.kind == "table"), key=lambda table: -table.bytes)

    def work() -> list[str]:
        lines: list[str] = []
        with connect() as session:
            present = {relation.label: relation for relation in relations(session)[0]}
            while True:
                try:
                    table = waiting.pop(0)  # list.pop is atomic
                except IndexError:
                    return lines
                if progress is not None:
                    progress(table.name)
                if table.name not in present:
                    lines.append(f"table {table.name} is missing from the restored copy")
                    continue
                actual = table_evidence(session, present[table.name], hashed=table.content_hash is not None)
                if actual.rows != table.rows:
                    lines.append(f"table {table.name}: {table.rows} rows in the source, {actual.rows} restored")
                elif actual.content_hash != table.content_hash:
                    lines.append(f"table {table.name}: the same {table.rows} rows in number, but not in content")

    with ThreadPoolExecutor(max(1, workers)) as pool:
        return [line for lines in pool.map(lambda _: work(), range(max(1, workers))) for line in lines]


def compare(expected: Evidence, actual: Evidence) -> list[str]:
    """A line for everything in which a restored copy differs from the source, tables apart (see compare_tables)."""
    lines: list[str] = []
    if expected.database is not None and actual.database is not None:
        wanted, found = expected.database.model_dump(), actual.database.model_dump()
        lines += [
            f"database {key}: {wanted[key]!r} in the source, {found[key]!r} restored"
            for key in wanted
            if wanted[key] != found[key]
        ]
    lines += _compare_named("extension", expected.extensions, actual.extensions, show=True)
    lines += _compare_named("", expected.objects, actual.objects, show=False)
    lines += _compare_named("role", expected.roles, actual.roles, show=False)
    restored = {sequence.name: sequence for sequence in actual.sequences}
    for sequence in expected.sequences:
        if sequence.name not in restored:
            lines.append(f"sequence {sequence.name} is missing from the restored copy")
        elif not _within(sequence, restored[sequence.name].before):
            lines.append(
                f"sequence {sequence.name}: {sequence.before} to {sequence.after} around the dump,"
                f" {restored[sequence.name].before} restored"
            )
    if expected.large_objects is not None and actual.large_objects is not None:
        wanted_objects, found_objects = expected.large_objects, actual.large_objects
        if wanted_objects.count != found_objects.count:
            lines.append(f"large objects: {wanted_objects.count} in the source, {found_objects.count} restored")
        elif wanted_objects.content_hash not in (None, found_objects.content_hash):
            lines.append(f"large objects: the same {wanted_objects.count} in number, but not in content")
    if len(lines) > _LISTED_DIFFERENCES:
        lines = [*lines[:_LISTED_DIFFERENCES], f"and {len(lines) - _LISTED_DIFFERENCES} more differences"]
    return lines


def _compare_named(kind: str, wanted: dict[str, str], found: dict[str, str], show: bool) -> list[str]:
    prefix = f"{kind} " if kind else ""
    lines = [f"{prefix}{name} is missing from the restored copy" for name in sorted(wanted.keys() - found.keys())]
    lines += [f"{prefix}{name} is in the restored copy only" for name in sorted(found.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & found.keys()):
        if wanted[name] != found[name]:
            detail = f": {wanted[name]} in the source, {found[name]} restored" if show else " is defined differently"
            lines.append(f"{prefix}{name}{detail}")
    return lines


def _within(sequence: SequenceEvidence, value: tuple[int, bool]) -> bool:
    """Whether a restored value lies between those seen before and after the dump, in the sequence's own direction."""
    direction = 1 if sequence.increment > 0 else -1
    low, at, high = ((v * direction, called) for v, called in (sequence.before, value, sequence.after))
    if high < low or (sequence.cycle and low != high):
        return True  # it was set back meanwhile, or went round: any value may have been dumped
    return low <= at <= high
