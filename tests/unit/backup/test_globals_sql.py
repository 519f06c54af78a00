"""What is read out of a globals dump, as pg_dumpall of several versions writes it."""

from __future__ import annotations

import pytest

from homelab_pipelines.backup.globals_sql import Statement, statements, unquote

DUMP = r'''--
-- PostgreSQL database cluster dump; it's not a statement
--

\restrict nMaYbT; DROP ROLE postgres;

SET default_transaction_read_only = off;
SET client_encoding = 'UTF8';

CREATE ROLE "a ""b""; c";
ALTER ROLE "a ""b""; c" WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$4096:Plo=$w:g=' VALID UNTIL 'infinity';
COMMENT ON ROLE "a ""b""; c" IS E'one;
\\restrict two
--;''three';
CREATE ROLE plain;
ALTER ROLE plain SET search_path TO 'app', 'x;y';
GRANT plain TO "a ""b""; c" GRANTED BY postgres;
GRANT "a ""b""; c" TO plain WITH ADMIN OPTION GRANTED BY "odd ""grantor""";
GRANT SET ON PARAMETER work_mem TO plain;
CREATE TABLESPACE "fast disk" OWNER postgres LOCATION '/mnt/fast;disk';
GRANT ALL ON TABLESPACE "fast disk" TO plain;

\unrestrict nMaYbT
'''


def test_statements_are_told_apart() -> None:
    odd = 'a "b"; c'
    assert statements(DUMP) == [
        Statement('CREATE ROLE "a ""b""; c"', "create role", odd),
        Statement(
            'ALTER ROLE "a ""b""; c" WITH NOSUPERUSER LOGIN PASSWORD \'SCRAM-SHA-256$4096:Plo=$w:g=\''
            " VALID UNTIL 'infinity'",
            "alter role",
            odd,
        ),
        Statement('COMMENT ON ROLE "a ""b""; c" IS E\'one;\n\\\\restrict two\n--;\'\'three\'', "alter role", odd),
        Statement("CREATE ROLE plain", "create role", "plain"),
        Statement("ALTER ROLE plain SET search_path TO 'app', 'x;y'", "alter role", "plain"),
        Statement('GRANT plain TO "a ""b""; c"', "grant role", odd),
        Statement('GRANT "a ""b""; c" TO plain WITH ADMIN OPTION', "grant role", "plain"),
        Statement("GRANT SET ON PARAMETER work_mem TO plain", "other", None),
        Statement("CREATE TABLESPACE \"fast disk\" OWNER postgres LOCATION '/mnt/fast;disk'", "tablespace", None),
        Statement('GRANT ALL ON TABLESPACE "fast disk" TO plain', "tablespace", None),
    ]


@pytest.mark.parametrize(
    ("grants", "merged"),
    [
        (["WITH INHERIT TRUE"], "WITH INHERIT TRUE, SET TRUE"),
        (["WITH INHERIT FALSE, SET FALSE"], "WITH INHERIT FALSE, SET FALSE"),
        (
            ["WITH ADMIN OPTION, INHERIT FALSE, SET FALSE GRANTED BY postgres", "WITH INHERIT FALSE GRANTED BY m"],
            "WITH ADMIN OPTION, INHERIT FALSE, SET TRUE",
        ),
        (
            ["WITH INHERIT TRUE, SET FALSE GRANTED BY m", "WITH ADMIN OPTION, INHERIT FALSE, SET FALSE GRANTED BY p"],
            "WITH ADMIN OPTION, INHERIT TRUE, SET FALSE",
        ),
    ],
)
def test_grants_by_several_grantors_become_one_that_allows_all(grants: list[str], merged: str) -> None:
    dump = "".join(f"GRANT made TO maker {grant};\n" for grant in grants)
    assert statements(dump) == [Statement(f"GRANT made TO maker {merged}", "grant role", "maker")]


def test_empty_dump_has_no_statements() -> None:
    assert statements("") == []


@pytest.mark.parametrize(("identifier", "name"), [("plain", "plain"), ('"two words"', "two words"), ('"a""b"', 'a"b')])
def test_identifier_is_unquoted(identifier: str, name: str) -> None:
    assert unquote(identifier) == name
