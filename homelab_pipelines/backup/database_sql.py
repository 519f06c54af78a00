"""The SQL that makes a database as the source had it: CREATE, ALTER, GRANT, COMMENT. Text only, no execution."""

from __future__ import annotations

import re

from homelab_pipelines.backup.manifest import DatabaseProperties

# GUC_LIST_QUOTE settings (guc_tables.c): pg_dump, too, writes their stored value as it is, already quoted part by part.
_LIST_SETTINGS = frozenset(
    (
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    )
)
OF_ROLE = re.compile(r'("(?:[^"]|"")*"|[a-z_][a-z0-9_]*): (.*)', re.DOTALL)  # what quote_ident gives, then the setting


def identifier(name: str) -> str:
    """`name` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as an SQL string; needs standard_conforming_strings, which is on by default."""
    return "'" + text.replace("'", "''") + "'"


def create_statement(name: str, properties: DatabaseProperties, collate: str, ctype: str) -> str:
    """CREATE DATABASE with the source's encoding and provider, and the locale given."""
    provider = {
        "libc": "",
        "icu": f" LOCALE_PROVIDER icu ICU_LOCALE {literal(properties.locale or 'und')}"
        + (f" ICU_RULES {literal(properties.icu_rules)}" if properties.icu_rules else ""),
        "builtin": f" LOCALE_PROVIDER builtin BUILTIN_LOCALE {literal(properties.locale or 'C')}",
    }[properties.provider]
    return (
        f"CREATE DATABASE {identifier(name)} TEMPLATE template0 ENCODING {literal(properties.encoding)}"
        f" LC_COLLATE {literal(collate)} LC_CTYPE {literal(ctype)}{provider}"
    )


def property_statements(name: str, properties: DatabaseProperties, owners: bool) -> list[str]:
    """ALTER DATABASE, GRANT and COMMENT as the source had them; without what names roles unless `owners`."""
    quoted = identifier(name)
    statements = []
    if properties.connection_limit != -1:
        statements.append(f"ALTER DATABASE {quoted} CONNECTION LIMIT {properties.connection_limit}")
    if properties.comment is not None:
        statements.append(f"COMMENT ON DATABASE {quoted} IS {literal(properties.comment)}")
    if not owners:
        return statements
    owner = identifier(properties.owner)
    statements.append(f"ALTER DATABASE {quoted} OWNER TO {owner}")
    statements.append(f"REVOKE ALL ON DATABASE {quoted} FROM PUBLIC, {owner}")
    statements += [grant.replace("{database}", quoted, 1) for grant in properties.privileges]
    return statements + [setting_statement(quoted, setting) for setting in properties.settings]


def setting_statement(quoted: str, setting: str, one_line: bool = False) -> str:
    """ALTER for `name=value`, or for `role: name=value` where the role is quoted as SQL; `one_line`: no line breaks."""
    of_role = OF_ROLE.fullmatch(setting)
    target = f"ROLE {of_role[1]} IN DATABASE {quoted}" if of_role else f"DATABASE {quoted}"
    key, _, value = (of_role[2] if of_role else setting).partition("=")
    written = value if key.lower() in _LIST_SETTINGS and value else literal(value)
    if one_line and "\n" in value:
        written = "E" + literal(value.replace("\\", "\\\\").replace("\n", "\\n"))
    return f"ALTER {target} SET {identifier(key)} = {written}"
