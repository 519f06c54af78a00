"""How a backup is restored, and whether the restored copy is equal to the evidence taken with the backup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homelab_pipelines.backup import evidence
from homelab_pipelines.backup.connection import Connection
from homelab_pipelines.backup.database_settings import values_to_hide, without_values
from homelab_pipelines.backup.manifest import Evidence, Manifest
from homelab_pipelines.backup.server import server_facts
from homelab_pipelines.backup.session import connect


@dataclass(frozen=True)
class RestoreOptions:
    """`replace`: over an existing database of that name, which is renamed aside. `roles`: create the missing ones.

    `jobs`: parallel connections of pg_restore. `check`: compare the restored copy with the backup's evidence.
    `scratch`: the server is a throw-away one: no tablespaces, no subscriptions, and a locale it lacks is replaced.
    """

    replace: bool = False
    roles: bool = True
    owners: bool = True
    jobs: int = 2
    check: bool = True
    scratch: bool = False
    folder: Path | None = None


def compare_restored(
    connection: Connection,
    database: str,
    manifest: Manifest,
    options: RestoreOptions,
    same_major: bool = True,
    hidden: Sequence[str] | None = None,
) -> tuple[list[str], list[str]]:
    """What differs between a restored copy and the evidence, and what could not be compared.

    `hidden` are an application's settings with their values, where the backup's globals were opened.
    """
    expected, notes = manifest.evidence, []
    same_form = expected.form == evidence.FORM
    with connect(connection, database) as session:
        facts = server_facts(session)
        found = evidence.database_properties(session, facts.number)
        actual = Evidence(
            database=without_values(found),
            sequences=evidence.sequences(*(2 * (evidence.sequence_values(session),))),
            large_objects=evidence.large_objects(session, manifest.server_bytes + 1),
            extensions=evidence.extensions(session),
            objects=evidence.schema_objects(session, facts.number) if same_major and same_form else expected.objects,
            roles=evidence.roles(session, expected.role_passwords) if same_form else expected.roles,
            role_passwords=expected.role_passwords,
        )
    if not same_major:
        notes.append(f"schema not compared: PostgreSQL {manifest.server_major} writes definitions differently")
    if not same_form:
        notes.append(
            "schema, roles and the values in tables that inherit not compared:"
            f" recorded in form {expected.form}, this version knows form {evidence.FORM}"
        )
    adjusted, more = _comparable(expected, actual, options)
    differences = evidence.compare(adjusted, actual)
    if hidden is not None and options.owners and sorted(hidden) != sorted(values_to_hide(found)):
        differences.append("settings of the database that applications named: other values than the source's")
    if expected.tables:
        differences += evidence.compare_tables(
            expected.tables if same_major else [t.model_copy(update={"content_hash": None}) for t in expected.tables],
            lambda: connect(connection, database),
            options.jobs,
            form=expected.form,
        )
    unhashed = [table.name for table in expected.tables if table.kind == "table" and table.content_hash is None]
    if unhashed:
        shown = ", ".join(unhashed[:10]) + (f" and {len(unhashed) - 10} more" if len(unhashed) > 10 else "")
        notes.append(f"counted, not hashed (larger than the inventory's limit): {shown}")
    return differences, notes + more


def _comparable(expected: Evidence, actual: Evidence, options: RestoreOptions) -> tuple[Evidence, list[str]]:
    """The evidence without what this server cannot reproduce, and a note for each thing taken out."""
    notes, extensions = [], dict(expected.extensions)
    for name, wanted in expected.extensions.items():
        found = actual.extensions.get(name)
        if found not in (None, wanted):
            extensions[name] = str(found)
            notes.append(f"extension {name}: {wanted} in the source, this server installs {found}")
    changes: dict[str, Any] = {"extensions": extensions}
    if not options.scratch:
        # A server that lives on has roles of its own; they are not this backup's to judge.
        changes["roles"] = {name: actual.roles.get(name, digest) for name, digest in expected.roles.items()}
        changes["roles"] |= {name: digest for name, digest in actual.roles.items() if name not in expected.roles}
    if not options.owners:
        changes |= {"roles": actual.roles, "objects": {k: actual.objects.get(k, "") for k in expected.objects}}
        notes.append("owners and privileges not compared: the roles of the source are not on this server")
    properties, found_properties = expected.database, actual.database
    if properties is not None and found_properties is not None:
        kept: dict[str, Any] = {}
        if (properties.collate, properties.ctype) != (found_properties.collate, found_properties.ctype):
            kept = {"collate": found_properties.collate, "ctype": found_properties.ctype}
            notes.append(f"locale {properties.collate} is not on this server; {found_properties.collate} was taken")
        if not options.owners:
            of_owners = ("owner", "privileges", "settings", "hidden_settings")
            kept |= {key: getattr(found_properties, key) for key in of_owners}
        changes["database"] = properties.model_copy(update=kept)
    return expected.model_copy(update=changes), notes
