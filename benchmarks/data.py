"""The generated database of the benchmarks: a photo library and a file server, made inside the server from one seed.

Every value comes from a hash of its row number, so that any run, on any version, makes the same rows.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psycopg

BATCHES = 20
_TABLES = """
CREATE TABLE photo (id bigint PRIMARY KEY, asset uuid NOT NULL UNIQUE, owner int NOT NULL, file_name text NOT NULL,
    taken_at timestamptz NOT NULL, checksum bytea NOT NULL, exif jsonb NOT NULL, description text);
CREATE TABLE face_embedding (photo bigint PRIMARY KEY, embedding real[] NOT NULL);
CREATE TABLE thumbnail (photo bigint PRIMARY KEY, content bytea NOT NULL);
CREATE TABLE file (id bigint PRIMARY KEY, storage int NOT NULL, path text NOT NULL, etag uuid NOT NULL,
    size bigint NOT NULL, modified timestamptz NOT NULL, mimetype int NOT NULL);
CREATE TABLE activity (id bigint PRIMARY KEY, at timestamptz NOT NULL, app text NOT NULL, actor int NOT NULL,
    subject jsonb NOT NULL, read bool NOT NULL);
CREATE TABLE note (id bigint PRIMARY KEY, title text NOT NULL, body text NOT NULL, changed_at timestamptz NOT NULL);
"""
_INDEXES = """
CREATE INDEX photo_taken ON photo (owner, taken_at);
CREATE INDEX file_path ON file (storage, path);
CREATE INDEX activity_at ON activity (at);
CREATE INDEX activity_actor ON activity (actor, at);
"""


@dataclass(frozen=True)
class _Table:
    """Rows for one GB of database, and what is selected for row number i."""

    name: str
    rows: int
    values: str


def _number(row: str, seed: int, below: int) -> str:
    """SQL of a number from 0 to `below` - 1 that depends on the row and the seed only."""
    return f"((hashint8extended({row}, {seed}) & 1073741823) % {below})"


def _lettered(expression: str) -> str:
    """Hexadecimal digits as the most frequent letters of English."""
    return f"translate({expression}, '0123456789abcdef', 'etaoinshrdlucmfp')"


def _word(seed: int, different: int) -> str:
    """SQL of one of `different` words."""
    return _lettered(f"to_hex(977 * {_number('i', seed, different)} + 4097)")


def _text(seed: int, words: int) -> str:
    """SQL of a text of so many words out of 4096.

    The rank of a word is 4095^u for an even u, which is Zipf's law, so that text compresses as prose does.
    """
    rank = f"power(4095, (hashint8extended(i * 512 + part, {seed}) & 1048575) / 1048576::float8)::int"
    drawn = f"SELECT string_agg(to_hex(977 * ({rank})), ' ') FROM generate_series(1, {words}) part"
    return _lettered(f"({drawn})")


def _time(seed: int) -> str:
    return f"timestamptz '2015-01-01Z' + {_number('i', seed, 378691200)} * interval '1 second'"


_TABLE_CONTENT = (
    _Table(
        "photo",
        310_000,
        f"""i, md5('photo' || i)::uuid, {_number("i", 11, 6)}, 'IMG_' || lpad(i::text, 8, '0') || '.jpg', {_time(12)},
        substr(sha256(('a' || i)::bytea), 1, 20), jsonb_build_object('make', {_word(13, 12)}, 'model', {_word(14, 90)},
            'fNumber', {_number("i", 15, 160)} / 10::float8, 'iso', 100 * (1 + {_number("i", 16, 64)}),
            'exposure', '1/' || {_number("i", 17, 4000)}, 'latitude', {_number("i", 18, 180000000)} / 1e6::float8 - 90,
            'longitude', {_number("i", 19, 360000000)} / 1e6::float8 - 180, 'width', 4000, 'height', 3000,
            'city', {_word(20, 800)}), {_text(21, 12)}""",
    ),
    _Table(
        "face_embedding",
        240_000,
        f"i, (SELECT array_agg(({_number('i * 128 + part', 31, 2000000)} / 1e6::float8 - 1)::real)"
        " FROM generate_series(1, 128) part)",
    ),
    _Table(
        "thumbnail",
        110_000,
        # Like a JPEG: it does not compress.
        "i, (SELECT string_agg(sha512((i || ':' || part)::bytea), NULL) FROM generate_series(1, 16) part)",
    ),
    _Table(
        "file",
        800_000,
        f"""i, {_number("i", 51, 4)},
        'files/' || {_word(52, 300)} || '/' || {_word(53, 3000)} || '/' || {_word(54, 4000)} || '-' || i || '.odt',
        md5('file' || i)::uuid, {_number("i", 55, 90000000)}, {_time(56)},
        {_number("i", 57, 40)}""",
    ),
    _Table(
        "activity",
        750_000,
        f"""i, {_time(61)}, (ARRAY['files', 'calendar', 'contacts', 'photos'])[1 + {_number("i", 62, 4)}],
        {_number("i", 63, 12)}, jsonb_build_object('file', {_word(64, 4000)}, 'id', i, 'by', {_word(65, 12)}),
        {_number("i", 66, 3)} > 0""",
    ),
    _Table("note", 110_000, f"i, {_text(71, 5)}, {_text(72, 250)}, {_time(73)}"),
)


def generate(dsn: str, gigabytes: float, progress: Callable[[str, float], None] | None = None) -> int:
    """Fill an empty database with about `gigabytes` (10^9 bytes, indexes included); its size in bytes afterwards.

    `progress` gets what is done and the share (0 to 1) of the whole.
    """
    report = progress or (lambda step, share: None)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_TABLES)
        work = [(table, batch) for batch in range(BATCHES) for table in _TABLE_CONTENT]
        total = len(work)

        def insert(_: int) -> None:
            with psycopg.connect(dsn, autocommit=True) as own:
                while work:
                    try:
                        table, batch = work.pop(0)
                    except IndexError:
                        return
                    rows = max(BATCHES, int(table.rows * gigabytes))
                    first, last = 1 + rows * batch // BATCHES, rows * (batch + 1) // BATCHES
                    own.execute(
                        f"INSERT INTO {table.name} SELECT {table.values}"
                        f" FROM generate_series({first}::bigint, {last}::bigint) i"
                    )
                    report(f"generated {table.name}", 0.9 * (1 - len(work) / total))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(insert, range(2)))
        report("making indexes", 0.9)
        connection.execute(_INDEXES)
        report("vacuum and analyze", 0.95)
        # What a server that has been up for a day has done: no run may pay for it.
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        return int(row[0]) if row else 0
