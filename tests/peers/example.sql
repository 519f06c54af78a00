-- One of everything that a backup must carry, for PostgreSQL 15 to 18. Run as a superuser in an empty database.
-- Extensions and their objects are made where the server has them.
BEGIN;
SET client_min_messages = warning;
SET TimeZone = 'UTC';

-- Roles are the cluster's: several databases of one server may be filled with this file.
DO $$
DECLARE role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['example_owner', 'example_reader', 'example_group', 'example_login', 'example rôle "x"'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('CREATE ROLE %I', role_name);
        END IF;
    END LOOP;
    ALTER ROLE example_login LOGIN PASSWORD 'example password' CONNECTION LIMIT 7 VALID UNTIL '2099-01-01 00:00:00+00';
    ALTER ROLE example_owner CREATEDB;
    ALTER ROLE example_login SET search_path = app, public;
    ALTER ROLE example_reader SET statement_timeout = '42s';
    GRANT example_group TO example_login WITH ADMIN OPTION;
    GRANT example_reader TO example_group;
    GRANT pg_read_all_stats TO example_reader;
    COMMENT ON ROLE example_reader IS 'reads, it''s said';
    EXECUTE format('ALTER DATABASE %I SET work_mem = ''5MB''', current_database());
    EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT 55', current_database());
    EXECUTE format('ALTER ROLE example_reader IN DATABASE %I SET lock_timeout = ''3s''', current_database());
    EXECUTE format('COMMENT ON DATABASE %I IS ''an example with one of everything''', current_database());
    EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO example_group', current_database());
    EXECUTE format('ALTER DATABASE %I OWNER TO example_owner', current_database());
END $$;

CREATE SCHEMA app AUTHORIZATION example_owner;
CREATE SCHEMA "Odd schema; ""quoted""";
COMMENT ON SCHEMA app IS 'the application';
GRANT USAGE ON SCHEMA app TO example_reader;
GRANT USAGE, CREATE ON SCHEMA app TO example_group WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE example_owner IN SCHEMA app GRANT SELECT ON TABLES TO example_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE example_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- Types, collation, functions, operators.
CREATE TYPE app.mood AS ENUM ('sad', 'ok', 'happy');
ALTER TYPE app.mood ADD VALUE 'so-so' BEFORE 'ok';
-- A value added to an enum can be used in a later transaction only.
COMMIT;
BEGIN;
CREATE TYPE app.place AS (street text, number integer, at point);
CREATE TYPE app.float_range AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE DOMAIN app.email AS text CHECK (VALUE ~ '^[^@]+@[^@]+$');
COMMENT ON DOMAIN app.email IS 'an address';
CREATE COLLATION app.plain FROM "C";
CREATE FUNCTION app.twice(value integer) RETURNS integer LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN value * 2;
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = app, pg_temp AS $body$
BEGIN
    NEW.touched := 'yes, "quoted" and $dollars$';
    RETURN NEW;
END $body$;
CREATE FUNCTION app.noted() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE DEBUG ''%'', tg_tag; END';
CREATE PROCEDURE app.nothing_done() LANGUAGE plpgsql AS 'BEGIN NULL; END';
CREATE AGGREGATE app.product(integer) (SFUNC = int4mul, STYPE = integer, INITCOND = '1');
CREATE OPERATOR app.=~= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = int4eq, COMMUTATOR = OPERATOR(app.=~=));
CREATE FUNCTION app.mood_number(app.mood) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT length($1::text)';
CREATE CAST (app.mood AS integer) WITH FUNCTION app.mood_number(app.mood);
REVOKE EXECUTE ON FUNCTION app.twice(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.twice(integer) TO example_reader;
CREATE TEXT SEARCH CONFIGURATION app.words (COPY = pg_catalog.simple);
ALTER TEXT SEARCH CONFIGURATION app.words ALTER MAPPING FOR asciiword WITH english_stem;

-- Sequences: serial, identity, descending, cycling, never used, and one past the last value of a whole number of bits.
CREATE SEQUENCE app.descending INCREMENT BY -3 MINVALUE -1000 MAXVALUE 100 START WITH 100;
CREATE SEQUENCE app.cycling AS smallint INCREMENT BY 1 MINVALUE 1 MAXVALUE 3 CYCLE CACHE 1;
CREATE SEQUENCE app.untouched START WITH 17;
SELECT nextval('app.descending') FROM generate_series(1, 5);
SELECT nextval('app.cycling') FROM generate_series(1, 5);
SELECT setval('app.untouched', 99, false);

CREATE TABLE app.person (
    id bigint GENERATED ALWAYS AS IDENTITY (START WITH 1000 INCREMENT BY 10) PRIMARY KEY,
    name text NOT NULL COLLATE app.plain,
    mail app.email UNIQUE,
    feeling app.mood DEFAULT 'ok',
    home app.place,
    tags text[] DEFAULT '{}',
    prefs jsonb NOT NULL DEFAULT '{}',
    raw json,
    key uuid DEFAULT gen_random_uuid(),
    gone integer,
    doubled integer GENERATED ALWAYS AS (length(name) * 2) STORED,
    touched text,
    best_friend bigint,
    CONSTRAINT friend FOREIGN KEY (best_friend) REFERENCES app.person DEFERRABLE INITIALLY DEFERRED
);
ALTER TABLE app.person DROP COLUMN gone;
ALTER TABLE app.person OWNER TO example_owner;
ALTER TABLE app.person ALTER COLUMN name SET STATISTICS 500, ALTER COLUMN raw SET STORAGE EXTERNAL, SET (fillfactor = 80);
CREATE TRIGGER touch BEFORE INSERT OR UPDATE OF name ON app.person FOR EACH ROW WHEN (NEW.name <> '') EXECUTE FUNCTION app.touch();
INSERT INTO app.person (name, mail, feeling, home, tags, prefs, raw, key)
SELECT
    'person ' || n || CASE n % 4 WHEN 0 THEN E' with \\ and \t and \n' WHEN 1 THEN ' Ünïcode 🦉' ELSE '' END,
    'p' || n || '@example.org',
    (ARRAY['sad', 'so-so', 'ok', 'happy', NULL])[1 + n % 5]::app.mood,
    ROW('Elm "Street", ' || n, n, point(n, -n))::app.place,
    ARRAY['a,b', 'c "d"', NULL, ''],
    jsonb_build_object('theme', 'dark', 'n', n, 'nested', jsonb_build_array(1, NULL, '{}'::jsonb)),
    '{"kept":  "as  written", "twice": 1, "twice": 2}',
    ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
FROM generate_series(1, 60) AS n;
UPDATE app.person SET best_friend = 1000 WHERE id % 3 = 0;
SET CONSTRAINTS ALL IMMEDIATE;
CREATE INDEX ON app.person (lower(name)) INCLUDE (mail) WHERE feeling IS NOT NULL;
CREATE INDEX prefs_index ON app.person USING gin (prefs jsonb_path_ops);
CREATE INDEX ON app.person USING hash (key);
CREATE UNIQUE INDEX lone ON app.person (mail, best_friend) NULLS NOT DISTINCT;
CREATE STATISTICS app.person_statistics (dependencies, ndistinct) ON name, feeling FROM app.person;
ALTER TABLE app.person ADD CONSTRAINT long_name CHECK (length(name) < 12) NOT VALID;
GRANT SELECT (id, name), UPDATE (touched) ON app.person TO example_reader;
GRANT ALL ON app.person TO example_group WITH GRANT OPTION;
COMMENT ON TABLE app.person IS E'people\nand more';
COMMENT ON COLUMN app.person.mail IS 'may be empty';
COMMENT ON CONSTRAINT friend ON app.person IS 'checked at the end';
ALTER TABLE app.person ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.person FORCE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON app.person FOR SELECT TO example_reader USING (mail = current_user OR feeling = 'happy');
CREATE POLICY no_sad ON app.person AS RESTRICTIVE FOR ALL TO PUBLIC USING (true) WITH CHECK (feeling IS DISTINCT FROM 'sad');

CREATE TABLE app.counter (id serial PRIMARY KEY, small smallserial, by_default integer GENERATED BY DEFAULT AS IDENTITY, note varchar(20));
INSERT INTO app.counter (note) SELECT 'note ' || n FROM generate_series(1, 5) AS n;
ALTER TABLE app.counter CLUSTER ON counter_pkey;
ALTER TABLE app.counter REPLICA IDENTITY FULL;

-- Values that lose something when they are not written with care.
CREATE TABLE app.odd_values (
    n integer PRIMARY KEY, small real, large double precision, exact numeric, at timestamptz, local timestamp, day date,
    span interval, bytes bytea, flag boolean, bits bit varying, letters char(5), money_value numeric(12, 2), network cidr,
    hardware macaddr, searched tsvector, during tstzrange, ranges int4multirange, matrix integer[][], shifted integer[], xml_free text
);
INSERT INTO app.odd_values VALUES
    (1, 'NaN', '-0', 'NaN', 'infinity', '-infinity', 'infinity', '1 year -2 mons 3 days -04:05:06.789', '\x00ff0a0d5c27', true, B'101', 'a', 1.10, '10.0.0.0/8', '08:00:2b:01:02:03', 'cat:3 sat', '[2020-01-01,)', '{[1,3),[5,9)}', '{{1,2},{3,4}}', '[0:2]={7,8,9}', ''),
    (2, '-Infinity', 'Infinity', 123456789012345678901234567890.123456789, '0044-03-15 12:00:00+00 BC', '4713-01-01 00:00:00 BC', '4713-01-01 BC', '0', '', false, B'', '', -0.05, '::/0', NULL, '', 'empty', '{}', '{}', '{}', E'\\N'),
    (3, 1.1754944e-38, 4.9e-324, 'Infinity', '2026-03-29 02:30:00.123456+02', '294276-12-31 23:59:59', '5874897-12-31', '178000000 years', decode(repeat('c0ffee', 4000), 'hex'), NULL, NULL, 'ab   ', 9999999999.99, '192.168.0.0/24', NULL, NULL, NULL, NULL, NULL, NULL, E'\\.'),
    (4, 0.1, 0.1, 0.10, '2026-01-01 00:00:00.000001+00', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, E'tab\tnewline\ncarriage\rbackslash\\ 🦉 \u0001');

-- Tables of odd shapes.
CREATE TABLE app.no_columns ();
INSERT INTO app.no_columns SELECT FROM generate_series(1, 3);
CREATE TABLE app.no_rows (id integer PRIMARY KEY);
CREATE TABLE "Odd schema; ""quoted""".U&"a table/with 'quotes', ""more"", \+01F989 and\000Aa newline" ("a ""column""" integer, "; --" text);
INSERT INTO "Odd schema; ""quoted""".U&"a table/with 'quotes', ""more"", \+01F989 and\000Aa newline" VALUES (1, 'one'), (2, NULL);
CREATE UNLOGGED TABLE app.unlogged (id integer, note text);
INSERT INTO app.unlogged SELECT n, 'kept' FROM generate_series(1, 4) AS n;
CREATE TABLE app.parent (id integer NOT NULL, kind text DEFAULT 'parent');
CREATE TABLE app.child (extra text, CONSTRAINT extra_given CHECK (extra <> '')) INHERITS (app.parent);
INSERT INTO app.parent SELECT n FROM generate_series(1, 3) AS n;
INSERT INTO app.child SELECT n, 'child', 'x' FROM generate_series(4, 8) AS n;
CREATE TABLE app.booking (room integer, during tstzrange, EXCLUDE USING gist (during WITH &&) WHERE (room = 1));
INSERT INTO app.booking VALUES (1, '[2026-01-01,2026-01-02)'), (1, '[2026-01-02,2026-01-03)'), (2, '[2026-01-01,2026-02-01)');
CREATE TABLE app.duplicates (word text);
INSERT INTO app.duplicates SELECT 'same' FROM generate_series(1, 6);

-- Partitions: by range, below it by list with a default, and one detached from the usual schema.
CREATE TABLE app.event (at timestamptz NOT NULL, kind text NOT NULL, body jsonb, PRIMARY KEY (at, kind)) PARTITION BY RANGE (at);
CREATE TABLE app.event_2025 PARTITION OF app.event FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE app.event_2026 PARTITION OF app.event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY LIST (kind);
CREATE TABLE app.event_2026_logins PARTITION OF app.event_2026 FOR VALUES IN ('login', 'logout');
CREATE TABLE "Odd schema; ""quoted""".event_2026_rest PARTITION OF app.event_2026 DEFAULT;
CREATE TABLE app.event_other PARTITION OF app.event DEFAULT;
INSERT INTO app.event
SELECT '2025-06-01'::timestamptz + n * interval '9 days', (ARRAY['login', 'logout', 'upload'])[1 + n % 3], jsonb_build_object('n', n)
FROM generate_series(1, 90) AS n;
CREATE INDEX ON app.event USING brin (at);
CREATE TABLE app.hashed (id integer, note text) PARTITION BY HASH (id);
CREATE TABLE app.hashed_0 PARTITION OF app.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE app.hashed_1 PARTITION OF app.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO app.hashed SELECT n, 'h' || n FROM generate_series(1, 10) AS n;

-- Views, rules, materialised views, the publication and the event trigger.
CREATE VIEW app.happy WITH (security_barrier = true) AS SELECT id, name FROM app.person WHERE feeling = 'happy' WITH LOCAL CHECK OPTION;
CREATE RECURSIVE VIEW app.numbers (n) AS VALUES (1) UNION ALL SELECT n + 1 FROM numbers WHERE n < 5;
CREATE VIEW app.written AS SELECT id, note FROM app.unlogged;
CREATE RULE written_insert AS ON INSERT TO app.written DO INSTEAD INSERT INTO app.unlogged VALUES (NEW.id, upper(NEW.note));
-- (Not over app.person: pg_restore cannot refresh a view whose owner is held by FORCE ROW LEVEL SECURITY.)
CREATE MATERIALIZED VIEW app.kinds AS SELECT kind, count(*) AS events FROM app.event GROUP BY kind;
CREATE UNIQUE INDEX ON app.kinds (kind);
CREATE MATERIALIZED VIEW app.kind_total AS SELECT sum(events) AS events FROM app.kinds;
CREATE MATERIALIZED VIEW app.unpopulated AS SELECT id FROM app.counter WITH NO DATA;
GRANT SELECT ON app.kinds TO example_reader;
CREATE PUBLICATION example_publication FOR TABLE app.counter (id, note) WHERE (id > 2), TABLE app.event WITH (publish = 'insert, update');
CREATE EVENT TRIGGER example_event_trigger ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION app.noted();

-- A foreign server whose wrapper has no handler can be made everywhere; its table can never be read.
CREATE FOREIGN DATA WRAPPER example_wrapper OPTIONS (debug 'true');
CREATE SERVER example_server FOREIGN DATA WRAPPER example_wrapper OPTIONS (host 'nowhere.invalid');
CREATE USER MAPPING FOR example_login SERVER example_server OPTIONS (password 'mapped');
CREATE FOREIGN TABLE app.elsewhere (id integer, note text) SERVER example_server OPTIONS (name 'remote');
GRANT USAGE ON FOREIGN SERVER example_server TO example_reader;

-- Large objects, one of them empty, one larger than a page.
SELECT lo_from_bytea(910001, 'a large object'), lo_from_bytea(910002, ''), lo_from_bytea(910003, decode(repeat('00ff5c', 5000), 'hex'));
COMMENT ON LARGE OBJECT 910001 IS 'with a comment';
ALTER LARGE OBJECT 910003 OWNER TO example_owner;
GRANT SELECT ON LARGE OBJECT 910001 TO example_reader;

-- What only some servers have.
DO $$
DECLARE extension text;
BEGIN
    FOR extension IN
        SELECT name FROM pg_available_extensions WHERE name IN ('pg_trgm', 'hstore', 'citext', 'vector', 'postgres_fdw', 'btree_gist') ORDER BY name
    LOOP
        EXECUTE format('CREATE EXTENSION %I SCHEMA public', extension);
    END LOOP;
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm') THEN
        CREATE INDEX person_name_trigrams ON app.person USING gin (name public.gin_trgm_ops);
    END IF;
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'hstore') THEN
        CREATE TABLE app.pairs (id integer, attributes public.hstore);
        INSERT INTO app.pairs VALUES (1, 'a=>1, "b c"=>NULL'), (2, '');
    END IF;
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'vector') THEN
        CREATE TABLE app.face (id integer, embedding public.vector(4));
        INSERT INTO app.face SELECT n, ARRAY[n, 0.5, -n, 0.1]::real[] FROM generate_series(1, 10) AS n;
        CREATE INDEX face_embedding ON app.face USING hnsw (embedding public.vector_l2_ops);
    END IF;
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'postgres_fdw') THEN
        CREATE SERVER other_postgres FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere.invalid', dbname 'other');
        CREATE FOREIGN TABLE app.remote (id integer) SERVER other_postgres OPTIONS (schema_name 'public', table_name 'remote');
    END IF;
    IF current_setting('server_version_num')::integer >= 180000 THEN
        EXECUTE 'CREATE TABLE app.virtual_column (a integer NOT NULL NO INHERIT, b integer GENERATED ALWAYS AS (a * 3) VIRTUAL)';
        EXECUTE 'INSERT INTO app.virtual_column SELECT n FROM generate_series(1, 3) AS n';
    END IF;
END $$;
COMMIT;
