-- A photo library's database, much as Immich keeps it: 30,000 photos of five people, some 60 MB.
-- One transaction: either all of it is there or nothing. The seed makes every run the same.
SELECT setseed(0.2026);

CREATE TYPE asset_kind AS ENUM ('IMAGE', 'VIDEO');
CREATE TYPE asset_visibility AS ENUM ('timeline', 'archive', 'hidden', 'locked');

CREATE TABLE "user" (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL UNIQUE,
    is_admin boolean NOT NULL DEFAULT false,
    quota_bytes bigint,
    preferences jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL
);
INSERT INTO "user"
SELECT
    md5('user ' || n)::uuid,
    (ARRAY['Ada', 'Grace', 'Linus', 'Edsger', 'Barbara'])[n],
    lower((ARRAY['Ada', 'Grace', 'Linus', 'Edsger', 'Barbara'])[n]) || '@example.org',
    n = 1,
    CASE WHEN n > 3 THEN 500::bigint * 1024 * 1024 * 1024 END,
    jsonb_build_object('theme', (ARRAY['dark', 'light'])[1 + n % 2], 'memories', jsonb_build_object('enabled', n <> 4)),
    '2019-05-01 08:00:00+00'::timestamptz + n * interval '17 days'
FROM generate_series(1, 5) AS n;

CREATE TABLE asset (
    id uuid PRIMARY KEY,
    number bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    owner_id uuid NOT NULL REFERENCES "user" ON DELETE CASCADE,
    kind asset_kind NOT NULL,
    original_path text NOT NULL UNIQUE,
    file_name text NOT NULL,
    checksum bytea NOT NULL,
    thumbhash bytea,
    taken_at timestamptz NOT NULL,
    duration interval,
    visibility asset_visibility NOT NULL DEFAULT 'timeline',
    is_favorite boolean NOT NULL DEFAULT false,
    file_bytes bigint NOT NULL CHECK (file_bytes > 0),
    extension text GENERATED ALWAYS AS (lower(substring(file_name FROM '[^.]*$'))) STORED
);
COMMENT ON TABLE asset IS 'one photo or video';
CREATE TEMPORARY TABLE numbered ON COMMIT DROP AS
SELECT
    n,
    md5('asset ' || n)::uuid AS id,
    (1 + floor(power(random(), 1.6) * 5))::integer AS person,
    timestamptz '2019-06-01 06:00:00+00' + n * interval '2 hours 9 minutes' + random() * interval '90 minutes' AS taken_at,
    random() < 0.07 AS video
FROM generate_series(1, 30000) AS n;
INSERT INTO asset
    (id, owner_id, kind, original_path, file_name, checksum, thumbhash, taken_at, duration, visibility, is_favorite, file_bytes)
SELECT
    id,
    md5('user ' || person)::uuid,
    CASE WHEN video THEN 'VIDEO' ELSE 'IMAGE' END::asset_kind,
    format('/data/library/%s/%s/%s/%s_%s', md5('user ' || person)::uuid, to_char(taken_at, 'YYYY'), to_char(taken_at, 'YYYY-MM-DD'),
           CASE WHEN video THEN 'VID' ELSE 'IMG' END, to_char(taken_at, 'YYYYMMDD_HH24MISS') || '_' || n || CASE WHEN video THEN '.MP4' ELSE '.jpg' END),
    CASE WHEN video THEN 'VID_' || n || '.MP4' ELSE 'IMG_' || n || '.jpg' END,
    substring(sha256(id::text::bytea) FROM 1 FOR 20),
    substring(sha512(id::text::bytea) FROM 1 FOR 25),
    taken_at,
    CASE WHEN video THEN make_interval(secs => round((3 + random() * 240)::numeric, 2)::double precision) END,
    CASE WHEN random() < 0.05 THEN 'archive' WHEN random() < 0.02 THEN 'hidden' ELSE 'timeline' END::asset_visibility,
    random() < 0.04,
    (CASE WHEN video THEN 40000000 ELSE 2500000 END * (0.3 + random()))::bigint
FROM numbered;
CREATE INDEX asset_by_owner_and_time ON asset (owner_id, taken_at DESC);

CREATE TABLE asset_exif (
    asset_id uuid PRIMARY KEY REFERENCES asset ON DELETE CASCADE,
    exif jsonb NOT NULL,
    latitude double precision,
    longitude double precision,
    city text,
    description text NOT NULL DEFAULT ''
);
INSERT INTO asset_exif
SELECT
    id,
    jsonb_build_object(
        'Make', (ARRAY['FUJIFILM', 'Apple', 'Google', 'SONY', 'Canon'])[1 + n % 5],
        'Model', (ARRAY['X-T5', 'iPhone 15 Pro', 'Pixel 8', 'ILCE-7M4', 'EOS R6m2'])[1 + n % 5],
        'LensModel', (ARRAY['XF35mmF1.4 R', 'back triple camera 6.765mm f/1.78', 'back camera 6.9mm f/1.68', 'FE 24-70mm F2.8 GM II'])[1 + n % 4],
        'ISO', (ARRAY[64, 100, 200, 400, 800, 1600, 3200])[1 + (random() * 6)::integer],
        'FNumber', (ARRAY[1.4, 1.78, 2.8, 4, 5.6, 8])[1 + (random() * 5)::integer],
        'ExposureTime', '1/' || (ARRAY[30, 60, 125, 250, 500, 1000, 4000])[1 + (random() * 6)::integer],
        'FocalLength', round((random() * 66 + 6)::numeric, 1),
        'ExifImageWidth', 6240, 'ExifImageHeight', 4160, 'Orientation', 1 + n % 8, 'ColorSpace', 'sRGB',
        'DateTimeOriginal', to_char(taken_at, 'YYYY:MM:DD HH24:MI:SS'), 'OffsetTimeOriginal', '+01:00',
        'GPSImgDirection', round((random() * 360)::numeric, 2), 'Software', '18.' || n % 4
    ),
    CASE WHEN n % 6 > 0 THEN 47 + random() * 8 END,
    CASE WHEN n % 6 > 0 THEN 6 + random() * 9 END,
    CASE WHEN n % 6 > 0 THEN (ARRAY['Berlin', 'Hamburg', 'Zürich', 'Wien', 'Kraków', 'Århus', 'Leipzig'])[1 + (random() * 6)::integer] END,
    CASE WHEN n % 9 = 0 THEN 'Day ' || n / 11 || ': ' || (ARRAY['at the lake 🏊', 'a walk in the forest', 'birthday cake', 'the new bicycle', 'snow!'])[1 + n % 5] ELSE '' END
FROM numbered;
CREATE INDEX asset_exif_gin ON asset_exif USING gin (exif jsonb_path_ops);

CREATE TABLE album (
    id uuid PRIMARY KEY,
    owner_id uuid NOT NULL REFERENCES "user",
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    shared_with uuid[] NOT NULL DEFAULT '{}'
);
CREATE TABLE album_asset (
    album_id uuid NOT NULL REFERENCES album ON DELETE CASCADE,
    asset_id uuid NOT NULL REFERENCES asset ON DELETE CASCADE,
    position serial NOT NULL,
    PRIMARY KEY (album_id, asset_id)
);
INSERT INTO album
SELECT md5('album ' || n)::uuid, md5('user ' || 1 + n % 5)::uuid, (ARRAY['Summer', 'Family', 'Garden', 'Trips', 'House'])[1 + n % 5] || ' ' || 2019 + n % 8,
       'Photos of ' || n, CASE WHEN n % 3 = 0 THEN ARRAY[md5('user 1')::uuid, md5('user 2')::uuid] ELSE '{}' END
FROM generate_series(1, 80) AS n;
INSERT INTO album_asset (album_id, asset_id)
SELECT md5('album ' || 1 + (n / 40) % 80)::uuid, id FROM numbered WHERE n % 4 = 0;

CREATE TABLE tag (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, parent_id integer REFERENCES tag, value text NOT NULL UNIQUE, color text);
INSERT INTO tag (value, color) SELECT unnest(ARRAY['places', 'people', 'things']), '#607d8b';
INSERT INTO tag (parent_id, value) SELECT 1 + n % 3, 'tag/' || n FROM generate_series(1, 60) AS n;
CREATE TABLE tag_asset (tag_id integer NOT NULL REFERENCES tag, asset_id uuid NOT NULL REFERENCES asset ON DELETE CASCADE, PRIMARY KEY (tag_id, asset_id));
INSERT INTO tag_asset SELECT 4 + n % 60, id FROM numbered WHERE n % 3 = 0;

CREATE TABLE person (id uuid PRIMARY KEY, owner_id uuid NOT NULL REFERENCES "user", name text NOT NULL DEFAULT '', birth_date date, is_hidden boolean NOT NULL DEFAULT false);
INSERT INTO person
SELECT md5('person ' || n)::uuid, md5('user ' || 1 + n % 5)::uuid, CASE WHEN n % 3 = 0 THEN '' ELSE 'Person ' || n END,
       CASE WHEN n % 7 = 0 THEN date '1950-01-01' + n * 97 END, n % 11 = 0
FROM generate_series(1, 150) AS n;
CREATE TABLE asset_face (
    id uuid PRIMARY KEY,
    asset_id uuid NOT NULL REFERENCES asset ON DELETE CASCADE,
    person_id uuid REFERENCES person ON DELETE SET NULL,
    box box NOT NULL
);
INSERT INTO asset_face
SELECT md5('face ' || n)::uuid, id, CASE WHEN n % 5 > 0 THEN md5('person ' || 1 + n % 150)::uuid END,
       box(point(round(random() * 3000), round(random() * 2000)), point(round(random() * 3000), round(random() * 2000)))
FROM numbered WHERE n % 8 = 0;
CREATE TABLE face_search (face_id uuid PRIMARY KEY REFERENCES asset_face ON DELETE CASCADE, embedding real[] NOT NULL);
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'vector') THEN
        ALTER TABLE face_search ALTER COLUMN embedding TYPE vector(512);
    END IF;
END $$;
INSERT INTO face_search
SELECT face.id, embedding.numbers
FROM asset_face AS face,
    LATERAL (SELECT array_agg(round((random() * 0.2 - 0.1)::numeric, 5)::real) AS numbers FROM generate_series(1, 512) WHERE face.id IS NOT NULL) AS embedding;

CREATE TABLE thumbnail (asset_id uuid PRIMARY KEY REFERENCES asset ON DELETE CASCADE, webp bytea NOT NULL);
ALTER TABLE thumbnail ALTER COLUMN webp SET STORAGE EXTERNAL;
INSERT INTO thumbnail
SELECT id, 'RIFF'::bytea || (SELECT string_agg(sha512(convert_to(id::text || part, 'UTF8')), ''::bytea ORDER BY part) FROM generate_series(1, 64) AS part)
FROM numbered WHERE n % 15 = 0;

CREATE TABLE activity (
    id bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL,
    user_id uuid NOT NULL REFERENCES "user",
    action text NOT NULL,
    details jsonb,
    PRIMARY KEY (id, at)
) PARTITION BY RANGE (at);
DO $$
BEGIN
    FOR month IN 1..10 LOOP
        EXECUTE format('CREATE TABLE activity_2026_%s PARTITION OF activity FOR VALUES FROM (%L) TO (%L)', to_char(month, 'FM00'),
                       make_date(2026, month, 1), make_date(2026, month, 1) + interval '1 month');
    END LOOP;
END $$;
CREATE TABLE activity_rest PARTITION OF activity DEFAULT;
INSERT INTO activity (at, user_id, action, details)
SELECT
    timestamptz '2026-01-01 00:00:00+00' + n * interval '5 minutes 10 seconds',
    md5('user ' || 1 + n % 5)::uuid,
    (ARRAY['upload', 'view', 'like', 'comment', 'download', 'share'])[1 + (random() * 5)::integer],
    jsonb_build_object('asset', md5('asset ' || 1 + (n * 7) % 30000), 'client', (ARRAY['web', 'android', 'ios'])[1 + n % 3], 'ms', (random() * 900)::integer)
FROM generate_series(1, 90000) AS n;
CREATE INDEX activity_by_time ON activity USING brin (at);

-- Motion photos' short films are kept as large objects.
CREATE TABLE motion_film (asset_id uuid PRIMARY KEY REFERENCES asset, film oid NOT NULL);
INSERT INTO motion_film
SELECT id, lo_from_bytea(0, 'ftypmp42'::bytea || (SELECT string_agg(sha512(convert_to(id::text || part, 'UTF8')), ''::bytea ORDER BY part) FROM generate_series(1, 1200) AS part))
FROM numbered WHERE n % 1000 = 0;

CREATE VIEW favorite AS SELECT id, owner_id, file_name, taken_at FROM asset WHERE is_favorite;
CREATE MATERIALIZED VIEW timeline_bucket AS
SELECT owner_id, date_trunc('month', taken_at, 'UTC') AS month, count(*) AS assets, sum(file_bytes) AS bytes FROM asset WHERE visibility = 'timeline' GROUP BY 1, 2;
CREATE UNIQUE INDEX ON timeline_bucket (owner_id, month);
CREATE FUNCTION asset_is_whole() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF octet_length(NEW.checksum) <> 20 THEN
        RAISE EXCEPTION 'checksum of % is not a SHA-1', NEW.file_name;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER asset_is_whole BEFORE INSERT OR UPDATE OF checksum ON asset FOR EACH ROW EXECUTE FUNCTION asset_is_whole();
ALTER TABLE person ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible_people ON person FOR SELECT TO reports USING (NOT is_hidden);
GRANT USAGE ON SCHEMA public TO reports;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO reports;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm') THEN
        CREATE INDEX asset_file_name_trigrams ON asset USING gin (file_name gin_trgm_ops);
    END IF;
END $$;
