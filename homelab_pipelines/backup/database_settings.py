"""What ALTER DATABASE … SET said, and where it is kept: settings that applications name may hold secrets.

The server's own settings stand in the manifest, which anybody who reads the store can read. Those with a dot in the
name are an application's (PostgreSQL calls them customized options): app.jwt_secret is one. Their values stand after
the dump of the roles, in the object that is encrypted; the manifest has their names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from homelab_pipelines.backup.database_sql import OF_ROLE, setting_statement
from homelab_pipelines.backup.manifest import DatabaseProperties

_ALL = "-- homelab_pipelines settings: "
_EACH = "-- for psql: "  # the manifest's reader puts a name in place of NEW
TAKE_OUT = f"sed -n 's/^{_EACH}//p'"
"""The shell command that gives the statements of a trailer, for psql with the variable `database`."""


def without_values(properties: DatabaseProperties) -> DatabaseProperties:
    """What the manifest may hold: an application's settings by name only."""
    hidden = values_to_hide(properties)
    return properties.model_copy(
        update={
            "settings": [setting for setting in properties.settings if setting not in hidden],
            "hidden_settings": [setting.partition("=")[0] for setting in hidden],
        }
    )


def values_to_hide(properties: DatabaseProperties) -> list[str]:
    """The settings, with their values, that are an application's."""
    return [setting for setting in properties.settings if "." in _name(setting)]


def trailer(hidden: Sequence[str]) -> bytes:
    """What follows the dump of the roles: all hidden settings for us, and each as a statement for psql; comments."""
    if not hidden:
        return b""
    statements = [setting_statement(':"database"', setting, one_line=True) for setting in hidden]
    return "".join([f"\n{_ALL}{json.dumps(list(hidden))}\n", *(f"{_EACH}{each};\n" for each in statements)]).encode()


def hidden_values(globals_sql: str | None) -> list[str]:
    """The settings that `trailer` wrote."""
    lines = [line for line in (globals_sql or "").splitlines() if line.startswith(_ALL)]
    return list(json.loads(lines[-1].removeprefix(_ALL))) if lines else []


def _name(setting: str) -> str:
    """`name` of `name=value`, and of `role: name=value` where the role is quoted as SQL."""
    of_role = OF_ROLE.fullmatch(setting)
    return (of_role[2] if of_role else setting).partition("=")[0]
