"""The commands that restore a backup with nothing but age, zstd and PostgreSQL's own programs. Text only."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from homelab_pipelines.backup.manifest import DatabaseProperties, StoredObject


def restore_commands(
    database: str | None, objects: Sequence[StoredObject], properties: DatabaseProperties | None
) -> list[str]:
    """Shell lines to run in the backup's folder; KEY is the file of the age identity, NEW the database to make."""
    commands = []
    for role, consumer in (("globals", "psql -X -d postgres"), ("dump", "pg_restore --exit-on-error -d NEW")):
        stored = next((item for item in objects if item.role == role), None)
        if stored is None:
            continue
        if role == "dump" and properties is not None:
            locale = {
                "libc": f"--lc-collate={properties.collate} --lc-ctype={properties.ctype}",
                "icu": f"--locale-provider=icu --icu-locale={properties.locale} --locale=C",
                "builtin": f"--locale-provider=builtin --builtin-locale={properties.locale} --locale=C",
            }[properties.provider]
            owner = f" --owner={shlex.quote(properties.owner)}"
            commands.append(f"createdb --template=template0 --encoding={properties.encoding} {locale}{owner} NEW")
        decrypt = (
            f"age -d -i KEY {stored.name} | zstd -dc" if stored.name.endswith(".age") else f"zstd -dc {stored.name}"
        )
        commands.append(f"{decrypt} | {consumer}")
    return commands
