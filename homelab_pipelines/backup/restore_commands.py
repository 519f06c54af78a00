"""The commands that restore a backup with nothing but age, zstd and PostgreSQL's own programs. Text only."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from homelab_pipelines.backup.database_settings import TAKE_OUT
from homelab_pipelines.backup.database_sql import property_statements
from homelab_pipelines.backup.manifest import DatabaseProperties, StoredObject

# A grant names the source's superuser as its grantor, who may be another role on the server restored to.
_WITHOUT_GRANTORS = "sed -E 's/^(GRANT .*) GRANTED BY .*;$/\\1;/'"


def restore_commands(
    database: str | None, objects: Sequence[StoredObject], properties: DatabaseProperties | None
) -> list[str]:
    """Shell lines to run in the backup's folder; KEY is the file of the age identity, NEW the database to make."""
    commands = []
    for role, consumer in (
        ("globals", f"{_WITHOUT_GRANTORS} | psql -X -d postgres"),
        ("dump", "pg_restore --exit-on-error -d NEW"),
    ):
        stored = next((item for item in objects if item.role == role), None)
        if stored is None:
            continue
        if role == "dump" and properties is not None:
            commands.append(_createdb(properties))
        commands.append(f"{_content(stored)} | {consumer}")
    if properties is not None:
        statements = property_statements("NEW", properties, owners=True)
        commands.append(" ".join(["psql -X -d postgres", *(f"-c {shlex.quote(each)}" for each in statements)]))
        stored = next((item for item in objects if item.role == "globals"), None)
        if properties.hidden_settings and stored is not None:
            commands.append(f"{_content(stored)} | {TAKE_OUT} | psql -X -v database=NEW -d postgres")
    return commands


def _content(stored: StoredObject) -> str:
    return f"age -d -i KEY {stored.name} | zstd -dc" if stored.name.endswith(".age") else f"zstd -dc {stored.name}"


def _createdb(properties: DatabaseProperties) -> str:
    locale = {
        "libc": [f"--lc-collate={properties.collate}", f"--lc-ctype={properties.ctype}"],
        "icu": ["--locale-provider=icu", f"--icu-locale={properties.locale}", "--locale=C"],
        "builtin": ["--locale-provider=builtin", f"--builtin-locale={properties.locale}", "--locale=C"],
    }[properties.provider]
    rules = [f"--icu-rules={properties.icu_rules}"] if properties.icu_rules else []
    options = ["--template=template0", f"--encoding={properties.encoding}", *locale, *rules]
    return " ".join(["createdb", *map(shlex.quote, options), f"--owner={shlex.quote(properties.owner)}", "NEW"])
