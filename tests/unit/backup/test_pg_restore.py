"""What is told of pg_restore's messages: which object failed and why, and no value of it."""

from __future__ import annotations

from homelab_pipelines.backup.pg_restore import without_values

SAID = """pg_restore: while PROCESSING TOC:
pg_restore: from TOC entry 3650; 1418 17099 USER MAPPING USER MAPPING app SERVER files postgres
pg_restore: error: could not execute query: ERROR:  role "app" does not exist
Command was: CREATE USER MAPPING FOR app SERVER files OPTIONS (
    password 'it''s secret'
);


pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter "transaction_timeout"
Command was: SET transaction_timeout = 0;
pg_restore: error: could not execute query: ERROR:  syntax error
Command was: CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $body$SELECT secret$body$;
pg_restore: warning: errors ignored on restore: 3"""


def test_commands_are_shown_up_to_their_first_value() -> None:
    assert without_values(SAID).splitlines() == [
        "pg_restore: while PROCESSING TOC:",
        "pg_restore: from TOC entry 3650; 1418 17099 USER MAPPING USER MAPPING app SERVER files postgres",
        'pg_restore: error: could not execute query: ERROR:  role "app" does not exist',
        "Command was: CREATE USER MAPPING FOR app SERVER files OPTIONS (",
        "    password …",
        "pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter"
        ' "transaction_timeout"',
        "Command was: SET transaction_timeout = 0;",
        "pg_restore: error: could not execute query: ERROR:  syntax error",
        "Command was: CREATE FUNCTION f() RETURNS text LANGUAGE sql AS …",
        "pg_restore: warning: errors ignored on restore: 3",
    ]


def test_no_message_stays_none() -> None:
    assert without_values("") == ""
