"""The catalogue queries behind a schema fingerprint: each gives (identity, definition) rows. Text only, no execution.

What pg_dump carries is listed, kind by kind; what belongs to an extension or to the system is not. Definitions never
hold oids or positions that a restore may change. Sources: the system catalogue chapters of PostgreSQL 13 to 18, and the
queries of pg_dump itself.

Columns of the catalogues, and obj_description, pg_get_viewdef, pg_get_ruledef and pg_get_constraintdef, are read in the
snapshot. Names (::regclass, ::regrole, format_type, pg_get_expr) and what the other pg_get_… functions give are read as
they are now, for pg_dump as for us. So what pg_dump reads in the snapshot is read in the snapshot here, and what it
reads as it is now is read so here, too: pg_get_functiondef is not used, for it would tell of a function replaced since.
Locks on tables keep ALTER TABLE and DROP INDEX away until both have looked. They do not keep away CREATE OR REPLACE
TRIGGER, ALTER INDEX, renamed types and roles, nor a new default of a function's argument: one that comes between
pg_dump's look and ours shows as a difference, and the next backup is right.
"""

from __future__ import annotations

_USER_SCHEMA = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"


def _own(catalogue: str, oid: str) -> str:
    """The object is no member of an extension."""
    return (
        f"NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.{catalogue}'::regclass"
        f" AND d.objid = {oid} AND d.deptype = 'e')"
    )


def _privileges(column: str, kind: str, owner: str) -> str:
    """Privileges in a fixed order; none recorded means the defaults of that kind of object."""
    return (
        f"(SELECT string_agg(a::text, ' ' ORDER BY a::text COLLATE BYTES)"
        f" FROM unnest(coalesce({column}, acldefault('{kind}', {owner}))) a)"
    )


def _text(*parts: str) -> str:
    """One text of several expressions; COLLATE BYTES and ::CHARACTER1 stand for names in double quotes."""
    joined = ", ".join(f"coalesce(({part})::text, '-')" for part in parts)
    return f"concat_ws(' | ', {joined})".replace("COLLATE BYTES", 'COLLATE "C"').replace("::CHARACTER1", '::"char"')


def _options(column: str) -> str:
    """Options in a fixed order: a restore may set them in another. `pg_attver` is the server's own counter, not set."""
    return (
        f"SELECT string_agg(o, ' ' ORDER BY o COLLATE BYTES) FROM unnest({column}) o WHERE o NOT LIKE 'pg\\_attver=%'"
    )


def _comment(oid: str, catalogue: str) -> str:
    return f"obj_description({oid}, '{catalogue}')"


def _security_labels(oid: str, catalogue: str) -> str:
    return (
        f"SELECT string_agg(l.provider || ':' || l.label, ' ' ORDER BY l.provider) FROM pg_catalog.pg_seclabel l"
        f" WHERE l.objoid = {oid} AND l.classoid = 'pg_catalog.{catalogue}'::regclass AND l.objsubid = 0"
    )


_COMMENT_OF_INDEX = _comment("i.indexrelid", "pg_class")
_COMMENT_OF_LARGE_OBJECT = _comment("m.oid", "pg_largeobject")
# Kinds whose definition, as it is queried below, leaves the comment out.
_COMMENTED_ELSEWHERE = ", ".join(
    f"'pg_catalog.{catalogue}'::regclass"
    for catalogue in (
        "pg_cast",
        "pg_collation",
        "pg_conversion",
        "pg_event_trigger",
        "pg_extension",
        "pg_foreign_data_wrapper",
        "pg_foreign_server",
        "pg_language",
        "pg_opclass",
        "pg_operator",
        "pg_opfamily",
        "pg_publication",
        "pg_ts_config",
        "pg_ts_dict",
    )
)
_RELATION = "quote_ident(n.nspname) || '.' || quote_ident(c.relname)"
_FROM_RELATION = "pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
# Partitions are made with their own columns and attached, so that theirs keep their order.
INHERITS = "(NOT c.relispartition AND EXISTS (SELECT FROM pg_catalog.pg_inherits ih WHERE ih.inhrelid = c.oid))"
# pg_dump makes a child anew with its parents' columns first, whatever order the source's had.
_POSITION = f"CASE WHEN NOT {INHERITS} THEN row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum) END"
_OWN_RELATION = f"{_USER_SCHEMA} AND {_own('pg_class', 'c.oid')}"


def schema_queries(server_version: int) -> list[str]:
    """The queries for a server of this `server_version_num`; each selects `identity` and `definition`, both text."""
    return [
        *_relations(server_version),
        *_table_parts(server_version),
        *_routines_and_types(server_version),
        *_others(server_version),
    ]


def _relations(version: int) -> list[str]:
    compression = "nullif(a.attcompression::text, '')" if version >= 140000 else "NULL"
    return [
        f"""SELECT 'schema ' || quote_ident(n.nspname) AS identity,
            {
            _text(
                "n.nspowner::regrole",
                _privileges("n.nspacl", "n", "n.nspowner"),
                _comment("n.oid", "pg_namespace"),
            )
        } AS definition FROM pg_catalog.pg_namespace n
            WHERE {_USER_SCHEMA} AND {_own("pg_namespace", "n.oid")}""",
        f"""SELECT CASE c.relkind WHEN 'r' THEN 'table ' WHEN 'p' THEN 'partitioned table ' WHEN 'v' THEN 'view '
            WHEN 'm' THEN 'materialised view ' WHEN 'f' THEN 'foreign table ' WHEN 'S' THEN 'sequence '
            ELSE 'composite type ' END || {_RELATION} AS identity,
            {
            _text(
                "c.relowner::regrole",
                "c.relpersistence",
                _privileges("c.relacl", "r", "c.relowner").replace(
                    "acldefault('r'", "acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::CHARACTER1"
                ),
                _options("c.reloptions"),
                _options("(SELECT toast.reloptions FROM pg_catalog.pg_class toast WHERE toast.oid = c.reltoastrelid)"),
                "c.relrowsecurity",
                "c.relforcerowsecurity",
                "c.relreplident",
                "CASE WHEN c.relkind = 'm' THEN c.relispopulated END",
                "CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END",
                "pg_get_expr(c.relpartbound, c.oid)",
                "SELECT string_agg(i.inhparent::regclass::text, ' ' ORDER BY i.inhseqno)"
                " FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid",
                "SELECT amname FROM pg_catalog.pg_am m WHERE m.oid = c.relam",
                "CASE WHEN c.reloftype <> 0 THEN c.reloftype::regtype END",
                "CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END",
                "SELECT s.srvname || ' ' || coalesce(t.ftoptions::text, '') FROM pg_catalog.pg_foreign_table t"
                " JOIN pg_catalog.pg_foreign_server s ON s.oid = t.ftserver WHERE t.ftrelid = c.oid",
                _comment("c.oid", "pg_class"),
                _security_labels("c.oid", "pg_class"),
            )
        } AS definition FROM {_FROM_RELATION} WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c')
            AND {_OWN_RELATION}""",
        f"""SELECT 'column ' || {_RELATION} || '.' || quote_ident(a.attname) AS identity,
            {
            _text(
                _POSITION,
                "format_type(a.atttypid, a.atttypmod)",
                "a.attnotnull",
                "a.attidentity",
                "a.attgenerated",
                "pg_get_expr(e.adbin, e.adrelid)",
                "SELECT l.collname FROM pg_catalog.pg_collation l"
                " WHERE l.oid = a.attcollation AND a.attcollation <> t.typcollation",
                "a.attstorage",
                compression,
                "nullif(a.attstattarget, -1)",
                "SELECT string_agg(p::text, ' ' ORDER BY p::text COLLATE BYTES) FROM unnest(a.attacl) p",
                _options("a.attoptions"),
                _options("a.attfdwoptions"),
                "col_description(c.oid, a.attnum)",
            )
        } AS definition FROM {_FROM_RELATION} JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
            JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
            LEFT JOIN pg_catalog.pg_attrdef e ON e.adrelid = c.oid AND e.adnum = a.attnum
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND a.attnum > 0 AND NOT a.attisdropped
            AND {_OWN_RELATION}""",
        f"""SELECT 'sequence rules ' || {_RELATION} AS identity,
            {
            _text(
                "s.seqtypid::regtype",
                "s.seqstart",
                "s.seqincrement",
                "s.seqmin",
                "s.seqmax",
                "s.seqcache",
                "s.seqcycle",
                "SELECT d.refobjid::regclass::text || '.' || a.attname FROM pg_catalog.pg_depend d"
                " JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid"
                " WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid"
                " AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0 LIMIT 1",
            )
        } AS definition FROM {_FROM_RELATION} JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
            WHERE {_OWN_RELATION}""",
    ]


def _table_parts(version: int) -> list[str]:
    constraint_kinds = "'c', 'f', 'p', 'u', 'x'"
    return [
        f"""SELECT 'index ' || i.indexrelid::regclass::text AS identity,
            {_text("pg_get_indexdef(i.indexrelid)", "i.indisclustered", "i.indisreplident", _COMMENT_OF_INDEX)}
            AS definition FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE (i.indisvalid OR c.relkind = 'p') AND i.indisready AND {_OWN_RELATION}""",
        f"""SELECT 'constraint ' || quote_ident(k.conname) || ' on ' ||
            CASE WHEN k.conrelid <> 0 THEN k.conrelid::regclass::text ELSE k.contypid::regtype::text END AS identity,
            {_text("pg_get_constraintdef(k.oid)", "k.convalidated", _comment("k.oid", "pg_constraint"))} AS definition
            FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_namespace n ON n.oid = k.connamespace
            WHERE k.contype IN ({constraint_kinds}) AND {_USER_SCHEMA} AND {_own("pg_constraint", "k.oid")}
            AND {_own("pg_class", "k.conrelid")} AND {_own("pg_type", "k.contypid")}""",
        f"""SELECT 'trigger ' || quote_ident(t.tgname) || ' on ' || t.tgrelid::regclass::text AS identity,
            {_text("pg_get_triggerdef(t.oid)", "t.tgenabled", _comment("t.oid", "pg_trigger"))} AS definition
            FROM pg_catalog.pg_trigger t JOIN {_FROM_RELATION} ON c.oid = t.tgrelid
            WHERE NOT t.tgisinternal AND {_OWN_RELATION} AND {_own("pg_trigger", "t.oid")}""",
        f"""SELECT 'rule ' || quote_ident(r.rulename) || ' on ' || r.ev_class::regclass::text AS identity,
            {_text("pg_get_ruledef(r.oid)", "r.ev_enabled", _comment("r.oid", "pg_rewrite"))} AS definition
            FROM pg_catalog.pg_rewrite r JOIN {_FROM_RELATION} ON c.oid = r.ev_class
            WHERE r.rulename <> '_RETURN' AND {_OWN_RELATION}""",
        f"""SELECT 'policy ' || quote_ident(p.polname) || ' on ' || p.polrelid::regclass::text AS identity,
            {
            _text(
                "p.polcmd",
                "p.polpermissive",
                "SELECT string_agg(CASE WHEN r = 0 THEN 'public' ELSE r::regrole::text END, ' '"
                " ORDER BY r::regrole::text) FROM unnest(p.polroles) r",
                "pg_get_expr(p.polqual, p.polrelid)",
                "pg_get_expr(p.polwithcheck, p.polrelid)",
                _comment("p.oid", "pg_policy"),
            )
        } AS definition FROM pg_catalog.pg_policy p JOIN {_FROM_RELATION} ON c.oid = p.polrelid
            WHERE {_OWN_RELATION}""",
        f"""SELECT 'statistics ' || quote_ident(n.nspname) || '.' || quote_ident(s.stxname) AS identity,
            {
            _text(
                "s.stxrelid::regclass",
                "s.stxkind",
                "SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attname COLLATE BYTES)"
                " FROM pg_catalog.pg_attribute a WHERE a.attrelid = s.stxrelid AND a.attnum = ANY (s.stxkeys)",
                "pg_get_expr(s.stxexprs, s.stxrelid)" if version >= 140000 else "NULL",
                "s.stxowner::regrole",
                "nullif(s.stxstattarget, -1)",
                _comment("s.oid", "pg_statistic_ext"),
            )
        } AS definition FROM pg_catalog.pg_statistic_ext s
            JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace
            WHERE {_USER_SCHEMA} AND {_own("pg_statistic_ext", "s.oid")}""",
    ]


def _routines_and_types(version: int) -> list[str]:
    body = "pg_get_function_sqlbody(p.oid)" if version >= 140000 else "NULL"
    return [
        f"""SELECT 'routine ' || quote_ident(n.nspname) || '.' || quote_ident(p.proname) || '('
            || pg_get_function_identity_arguments(p.oid) || ')' AS identity,
            {
            _text(
                "p.prokind",
                "p.proowner::regrole",
                _privileges("p.proacl", "f", "p.proowner"),
                "SELECT l.lanname FROM pg_catalog.pg_language l WHERE l.oid = p.prolang",
                "pg_get_function_arguments(p.oid)",
                "pg_get_function_result(p.oid)",
                body,
                "p.prosrc",
                "p.probin",
                "p.provolatile",
                "p.proisstrict",
                "p.prosecdef",
                "p.proleakproof",
                "p.proparallel",
                "p.procost",
                "p.prorows",
                "p.prosupport",
                "p.proconfig",
                "SELECT string_agg(format_type(t, NULL), ', ' ORDER BY n) FROM unnest(p.protrftypes)"
                " WITH ORDINALITY AS transformed (t, n)",
                "SELECT concat_ws(' ', g.aggkind, g.aggtransfn, g.aggfinalfn, g.aggcombinefn, g.aggserialfn,"
                " g.aggdeserialfn, g.aggmtransfn, g.aggtranstype::regtype, g.agginitval)"
                " FROM pg_catalog.pg_aggregate g WHERE g.aggfnoid = p.oid",
                _comment("p.oid", "pg_proc"),
            )
        } AS definition FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
            WHERE {_USER_SCHEMA} AND {_own("pg_proc", "p.oid")}
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::regclass
                AND d.objid = p.oid AND d.deptype = 'i')""",
        f"""SELECT 'type ' || quote_ident(n.nspname) || '.' || quote_ident(t.typname) AS identity,
            {
            _text(
                "t.typtype",
                "t.typowner::regrole",
                _privileges("t.typacl", "T", "t.typowner"),
                "SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder)"
                " FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid",
                "CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END",
                "t.typnotnull",
                "t.typdefault",
                "SELECT concat_ws(' ', r.rngsubtype::regtype, r.rngcanonical, r.rngsubdiff)"
                " FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid",
                "CASE WHEN t.typtype = 'b' THEN concat_ws(' ', t.typinput, t.typoutput, t.typlen, t.typalign) END",
                _comment("t.oid", "pg_type"),
            )
        } AS definition FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
            WHERE t.typtype IN ('d', 'e', 'r', 'b', 'c')
            AND (t.typrelid = 0 OR (SELECT c.relkind FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid) = 'c')
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid)
            AND {_USER_SCHEMA} AND {_own("pg_type", "t.oid")}""",
        f"""SELECT 'operator ' || quote_ident(n.nspname) || '.' || o.oprname || '(' || o.oprleft::regtype::text || ','
            || o.oprright::regtype::text || ')' AS identity,
            {_text("o.oprcode", "o.oprowner::regrole", "o.oprrest", "o.oprjoin", "o.oprcom::regoper")}
            AS definition FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
            WHERE o.oprcode <> 0 AND {_USER_SCHEMA} AND {_own("pg_operator", "o.oid")}""",
        f"""SELECT 'operator family ' || quote_ident(n.nspname) || '.' || quote_ident(f.opfname) || ' ' || m.amname
            AS identity,
            {
            _text(
                "f.opfowner::regrole",
                "SELECT string_agg(concat_ws(' ', o.amopstrategy, o.amopopr::regoperator, o.amoppurpose), ', '"
                " ORDER BY o.amopstrategy, o.amopopr::regoperator::text COLLATE BYTES)"
                " FROM pg_catalog.pg_amop o WHERE o.amopfamily = f.oid",
                "SELECT string_agg(concat_ws(' ', p.amprocnum, p.amproc::regprocedure), ', '"
                " ORDER BY p.amprocnum, p.amproc::regprocedure::text COLLATE BYTES)"
                " FROM pg_catalog.pg_amproc p WHERE p.amprocfamily = f.oid",
            )
        } AS definition FROM pg_catalog.pg_opfamily f JOIN pg_catalog.pg_am m ON m.oid = f.opfmethod
            JOIN pg_catalog.pg_namespace n ON n.oid = f.opfnamespace
            WHERE {_USER_SCHEMA} AND {_own("pg_opfamily", "f.oid")}""",
        f"""SELECT 'operator class ' || quote_ident(n.nspname) || '.' || quote_ident(o.opcname) || ' '
            || m.amname AS identity, {_text("o.opcintype::regtype", "o.opcdefault", "o.opcowner::regrole")}
            AS definition FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod
            JOIN pg_catalog.pg_namespace n ON n.oid = o.opcnamespace
            WHERE {_USER_SCHEMA} AND {_own("pg_opclass", "o.oid")}""",
    ]


def _others(version: int) -> list[str]:
    return [*_text_search_and_conversions(), *_replication(version), *_foreign(), *_of_the_database()]


def _text_search_and_conversions() -> list[str]:
    return [
        f"""SELECT 'collation ' || quote_ident(n.nspname) || '.' || quote_ident(l.collname) AS identity,
            {_text("l.collprovider", "l.collcollate", "l.collctype", "l.collisdeterministic", "l.collowner::regrole")}
            AS definition FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace
            WHERE {_USER_SCHEMA} AND {_own("pg_collation", "l.oid")}""",
        f"""SELECT 'conversion ' || quote_ident(n.nspname) || '.' || quote_ident(v.conname) AS identity,
            {_text("v.conproc", "v.condefault", "v.conowner::regrole")} AS definition FROM pg_catalog.pg_conversion v
            JOIN pg_catalog.pg_namespace n ON n.oid = v.connamespace
            WHERE {_USER_SCHEMA} AND {_own("pg_conversion", "v.oid")}""",
        f"""SELECT 'text search configuration ' || quote_ident(n.nspname) || '.' || quote_ident(f.cfgname) AS identity,
            {
            _text(
                "f.cfgowner::regrole",
                "f.cfgparser::text::oid::int8 < 16384",
                "SELECT string_agg(m.maptokentype || ':' || m.mapseqno || ':' || m.mapdict::regdictionary::text, ' '"
                " ORDER BY m.maptokentype, m.mapseqno) FROM pg_catalog.pg_ts_config_map m WHERE m.mapcfg = f.oid",
            )
        } AS definition FROM pg_catalog.pg_ts_config f JOIN pg_catalog.pg_namespace n ON n.oid = f.cfgnamespace
            WHERE {_USER_SCHEMA} AND {_own("pg_ts_config", "f.oid")}""",
        f"""SELECT 'text search dictionary ' || quote_ident(n.nspname) || '.' || quote_ident(f.dictname) AS identity,
            {_text("f.dictowner::regrole", "f.dictinitoption")} AS definition FROM pg_catalog.pg_ts_dict f
            JOIN pg_catalog.pg_namespace n ON n.oid = f.dictnamespace
            WHERE {_USER_SCHEMA} AND {_own("pg_ts_dict", "f.oid")}""",
        f"""SELECT 'cast ' || s.castsource::regtype::text || ' as ' || s.casttarget::regtype::text AS identity,
            {_text("nullif(s.castfunc, 0)::regprocedure", "s.castcontext", "s.castmethod")} AS definition
            FROM pg_catalog.pg_cast s WHERE s.oid >= 16384 AND {_own("pg_cast", "s.oid")}""",
    ]


def _replication(version: int) -> list[str]:
    rows = (
        "pg_get_expr(r.prqual, r.prrelid), (SELECT string_agg(quote_ident(a.attname), ',' ORDER BY a.attname)"
        " FROM pg_catalog.pg_attribute a WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs))"
        if version >= 150000
        else "NULL"
    )
    schemas = (
        "SELECT string_agg(s.pnnspid::regnamespace::text, ' ' ORDER BY s.pnnspid::regnamespace::text COLLATE BYTES)"
        " FROM pg_catalog.pg_publication_namespace s WHERE s.pnpubid = p.oid"
        if version >= 150000
        else "NULL"
    )
    return [
        f"""SELECT 'event trigger ' || quote_ident(e.evtname) AS identity,
            {_text("e.evtevent", "e.evtowner::regrole", "e.evtfoid::regproc", "e.evtenabled", "e.evttags::text")}
            AS definition FROM pg_catalog.pg_event_trigger e WHERE {_own("pg_event_trigger", "e.oid")}""",
        f"""SELECT 'publication ' || quote_ident(p.pubname) AS identity,
            {
            _text(
                "p.pubowner::regrole",
                "p.puballtables",
                "p.pubinsert",
                "p.pubupdate",
                "p.pubdelete",
                "p.pubtruncate",
                "p.pubviaroot",
                f"SELECT string_agg(concat_ws(' ', r.prrelid::regclass::text, {rows}), ', '"
                " ORDER BY r.prrelid::regclass::text COLLATE BYTES)"
                " FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid",
                schemas,
            )
        } AS definition FROM pg_catalog.pg_publication p WHERE {_own("pg_publication", "p.oid")}""",
    ]


def _foreign() -> list[str]:
    return [
        f"""SELECT 'foreign data wrapper ' || quote_ident(w.fdwname) AS identity,
            {
            _text(
                "w.fdwowner::regrole",
                "nullif(w.fdwhandler, 0)::regproc",
                "nullif(w.fdwvalidator, 0)::regproc",
                _options("w.fdwoptions"),
                _privileges("w.fdwacl", "F", "w.fdwowner"),
            )
        } AS definition FROM pg_catalog.pg_foreign_data_wrapper w WHERE {_own("pg_foreign_data_wrapper", "w.oid")}""",
        # Only the names of its options: their values hold passwords, which a digest would let others guess at.
        f"""SELECT 'user mapping of ' || quote_ident(u.usename) || ' on ' || quote_ident(u.srvname) AS identity,
            {
            _text(
                "SELECT string_agg(split_part(o, '=', 1), ' ' ORDER BY split_part(o, '=', 1) COLLATE BYTES)"
                " FROM unnest(u.umoptions) o"
            )
        } AS definition FROM pg_catalog.pg_user_mappings u""",
        f"""SELECT 'foreign server ' || quote_ident(s.srvname) AS identity,
            {
            _text(
                "s.srvowner::regrole",
                _privileges("s.srvacl", "S", "s.srvowner"),
                "s.srvtype",
                "s.srvversion",
                _options("s.srvoptions"),
                "SELECT w.fdwname FROM pg_catalog.pg_foreign_data_wrapper w WHERE w.oid = s.srvfdw",
            )
        } AS definition FROM pg_catalog.pg_foreign_server s WHERE {_own("pg_foreign_server", "s.oid")}""",
    ]


def _of_the_database() -> list[str]:
    return [
        f"""SELECT 'comment on ' || i.type || ' ' || i.identity AS identity, d.description AS definition
            FROM pg_catalog.pg_description d, pg_catalog.pg_identify_object(d.classoid, d.objoid, d.objsubid) i
            WHERE d.objoid >= 16384 AND d.classoid IN ({_COMMENTED_ELSEWHERE}) AND NOT EXISTS
            (SELECT FROM pg_catalog.pg_depend m
             WHERE m.classid = d.classoid AND m.objid = d.objoid AND m.deptype = 'e')""",
        """SELECT 'schema of extension ' || quote_ident(e.extname) AS identity, n.nspname::text AS definition
            FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace""",
        f"""SELECT 'language ' || quote_ident(l.lanname) AS identity,
            {_text("l.lanowner::regrole", "l.lanpltrusted", _privileges("l.lanacl", "l", "l.lanowner"))} AS definition
            FROM pg_catalog.pg_language l WHERE l.oid >= 16384 AND {_own("pg_language", "l.oid")}""",
        """SELECT 'default privileges ' || d.defaclrole::regrole::text || ' in '
            || coalesce((SELECT quote_ident(n.nspname) FROM pg_catalog.pg_namespace n WHERE n.oid = d.defaclnamespace),
            'every schema') || ' ' || d.defaclobjtype::text AS identity,
            (SELECT string_agg(a::text, ' ' ORDER BY a::text COLLATE "C") FROM unnest(d.defaclacl) a) AS definition
            FROM pg_catalog.pg_default_acl d""",
        f"""SELECT 'large object ' || m.oid AS identity,
            {_text("m.lomowner::regrole", _privileges("m.lomacl", "L", "m.lomowner"), _COMMENT_OF_LARGE_OBJECT)}
            AS definition FROM pg_catalog.pg_largeobject_metadata m""",
    ]
