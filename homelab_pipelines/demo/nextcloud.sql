-- A file server's database, much as Nextcloud keeps it: 90,000 files of four people, some 50 MB.
-- One transaction: either all of it is there or nothing. The seed makes every run the same.
SELECT setseed(0.1126);

CREATE TABLE oc_users (uid varchar(64) PRIMARY KEY, displayname varchar(64), password text NOT NULL DEFAULT '', uid_lower varchar(64) GENERATED ALWAYS AS (lower(uid)) STORED);
INSERT INTO oc_users (uid, displayname) VALUES ('ada', 'Ada'), ('grace', 'Grace Ü.'), ('linus', 'Linus'), ('Edsger', 'Edsger W.');
CREATE TABLE oc_accounts (uid varchar(64) PRIMARY KEY REFERENCES oc_users, data json NOT NULL);
INSERT INTO oc_accounts
SELECT uid, json_build_object('displayname', json_build_object('value', displayname, 'scope', 'v2-federated', 'verified', '0'),
                              'email', json_build_object('value', uid || '@example.org', 'scope', 'v2-federated'), 'profile_enabled', true)
FROM oc_users;

CREATE TABLE oc_storages (numeric_id bigserial PRIMARY KEY, id varchar(64) UNIQUE, available integer NOT NULL DEFAULT 1, last_checked bigint);
INSERT INTO oc_storages (id) SELECT 'home::' || uid FROM oc_users ORDER BY uid;
INSERT INTO oc_storages (id) VALUES ('local::/var/www/html/data/');
CREATE TABLE oc_mimetypes (id bigserial PRIMARY KEY, mimetype varchar(255) NOT NULL UNIQUE);
INSERT INTO oc_mimetypes (mimetype)
SELECT unnest(ARRAY['httpd', 'httpd/unix-directory', 'application/pdf', 'image/jpeg', 'text/markdown',
                    'application/vnd.oasis.opendocument.text', 'application/zip', 'video/mp4', 'text/plain']);

CREATE TABLE oc_filecache (
    fileid bigserial PRIMARY KEY,
    storage bigint NOT NULL REFERENCES oc_storages,
    path varchar(4000),
    path_hash varchar(32) NOT NULL,
    parent bigint NOT NULL,
    name varchar(250),
    mimetype bigint NOT NULL REFERENCES oc_mimetypes,
    size bigint NOT NULL,
    mtime bigint NOT NULL,
    storage_mtime bigint NOT NULL,
    etag varchar(40),
    permissions integer DEFAULT 31,
    checksum varchar(255)
);
-- 5 roots, 2,400 folders below them, and files in the folders.
INSERT INTO oc_filecache (storage, path, path_hash, parent, name, mimetype, size, mtime, storage_mtime, etag)
SELECT n, '', md5(''), -1, '', 2, 0, 1760000000 + n, 1760000000 + n, substring(md5('root' || n) FOR 13) FROM generate_series(1, 5) AS n;
CREATE TEMPORARY TABLE folder ON COMMIT DROP AS
SELECT n, 1 + n % 5 AS storage,
       format('files/%s/%s/%s', (ARRAY['Documents', 'Photos', 'Projects', 'Music', 'Scans', 'Backups'])[1 + n % 6], 2012 + n % 15,
              (ARRAY['Taxes', 'House', 'Letters', 'Holiday', 'School', 'Garden', 'Bücher'])[1 + n % 7] || ' ' || n) AS path
FROM generate_series(1, 2400) AS n;
INSERT INTO oc_filecache (storage, path, path_hash, parent, name, mimetype, size, mtime, storage_mtime, etag)
SELECT storage, path, md5(path), storage, substring(path FROM '[^/]*$'), 2, (random() * 90000000)::bigint, 1600000000 + n * 61000, 1600000000 + n * 61000, substring(md5('folder' || n) FOR 13)
FROM folder ORDER BY n;
INSERT INTO oc_filecache (storage, path, path_hash, parent, name, mimetype, size, mtime, storage_mtime, etag, checksum)
SELECT
    folder.storage, folder.path || '/' || file.name, md5(folder.path || '/' || file.name), 5 + folder.n, file.name,
    3 + file.n % 7, (power(random(), 4) * 60000000)::bigint, 1600000000 + file.n * 1700, 1600000000 + file.n * 1700,
    substring(md5('file' || file.n) FOR 13), CASE WHEN file.n % 4 = 0 THEN 'SHA1:' || substring(md5('a' || file.n) || md5('b' || file.n) FOR 40) END
FROM (
    SELECT n, (ARRAY['Invoice', 'Scan', 'IMG', 'Notes', 'Minutes of the meeting', 'Rechnung', 'draft'])[1 + (random() * 6)::integer] || '_' || n
              || (ARRAY['.pdf', '.jpg', '.md', '.odt', '.zip', '.mp4', '.txt'])[1 + n % 7] AS name
    FROM generate_series(1, 90000) AS n
) AS file JOIN folder ON folder.n = 1 + file.n % 2400
ORDER BY file.n;
CREATE UNIQUE INDEX fs_storage_path_hash ON oc_filecache (storage, path_hash);
CREATE INDEX fs_parent_name_hash ON oc_filecache (parent, name);
CREATE INDEX fs_mtime ON oc_filecache (mtime);

CREATE TABLE oc_share (
    id bigserial PRIMARY KEY, share_type smallint NOT NULL, share_with varchar(255), uid_owner varchar(64) NOT NULL REFERENCES oc_users,
    file_source bigint REFERENCES oc_filecache ON DELETE CASCADE, permissions smallint NOT NULL DEFAULT 1, token varchar(32) UNIQUE,
    expiration timestamp, attributes json
);
INSERT INTO oc_share (share_type, share_with, uid_owner, file_source, permissions, token, expiration, attributes)
SELECT CASE WHEN n % 3 = 0 THEN 3 ELSE 0 END, CASE WHEN n % 3 > 0 THEN 'grace' END, 'ada', 2500 + n * 31, 1 + n % 31,
       CASE WHEN n % 3 = 0 THEN substring(md5('token' || n) FOR 15) END, CASE WHEN n % 5 = 0 THEN timestamp '2027-01-01' + n * interval '1 day' END,
       CASE WHEN n % 7 = 0 THEN '[{"scope":"permissions","key":"download","value":false}]'::json END
FROM generate_series(1, 900) AS n;

CREATE TABLE oc_activity (
    activity_id bigserial PRIMARY KEY, timestamp integer NOT NULL, priority integer NOT NULL DEFAULT 30, type varchar(255), "user" varchar(64),
    affecteduser varchar(64) NOT NULL, app varchar(32) NOT NULL, subject varchar(255) NOT NULL, subjectparams text NOT NULL, file varchar(4000), object_id bigint NOT NULL
);
INSERT INTO oc_activity (timestamp, type, "user", affecteduser, app, subject, subjectparams, file, object_id)
SELECT 1740000000 + fileid * 480 + (random() * 400)::integer, (ARRAY['file_created', 'file_changed', 'shared'])[1 + fileid % 3], (ARRAY['ada', 'grace', 'linus', 'Edsger'])[1 + fileid % 4], 'ada',
       'files', (ARRAY['created_self', 'changed_by', 'shared_with_by'])[1 + fileid % 3],
       json_build_array(json_build_object(fileid::text, '/' || path), (ARRAY['ada', 'grace', 'linus', 'Edsger'])[1 + fileid % 4])::text, '/' || path, fileid
FROM oc_filecache WHERE fileid % 2 = 0 ORDER BY fileid;
CREATE INDEX activity_user_time ON oc_activity (affecteduser, timestamp);

CREATE TABLE oc_preferences (userid varchar(64), appid varchar(32), configkey varchar(64), configvalue text, PRIMARY KEY (userid, appid, configkey));
INSERT INTO oc_preferences
SELECT uid, (ARRAY['core', 'files', 'calendar', 'dashboard', 'theming'])[1 + n % 5], 'key' || n, jsonb_build_object('enabled', n % 2 = 0, 'order', n, 'layout', ARRAY['a', 'b', uid])::text
FROM oc_users, generate_series(1, 50) AS n;
CREATE TABLE oc_calendarobjects (
    id bigserial PRIMARY KEY, calendardata bytea NOT NULL, uri varchar(255) NOT NULL, calendarid bigint NOT NULL, lastmodified bigint,
    firstoccurence bigint, UNIQUE (calendarid, uri)
);
INSERT INTO oc_calendarobjects (calendardata, uri, calendarid, lastmodified, firstoccurence)
SELECT convert_to(format(E'BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//Nextcloud calendar v5\r\nBEGIN:VEVENT\r\nUID:%s\r\nDTSTART;TZID=Europe/Berlin:%sT090000\r\nSUMMARY:%s %s\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n',
                         md5('event' || n), 20240000 + 101 + n % 28, (ARRAY['Dentist', 'School', 'Birthday 🎂', 'Bins out'])[1 + n % 4], n), 'UTF8'),
       md5('event' || n) || '.ics', 1 + n % 4, 1700000000 + n * 900, 1700000000 + n * 40000
FROM generate_series(1, 8000) AS n;
CREATE TABLE oc_file_locks (id bigserial PRIMARY KEY, "lock" integer NOT NULL DEFAULT 0, key varchar(64) NOT NULL UNIQUE, ttl integer NOT NULL DEFAULT -1);
CREATE MATERIALIZED VIEW storage_usage AS
SELECT storage, mimetype, count(*) AS files, sum(size) AS bytes FROM oc_filecache WHERE mimetype <> 2 GROUP BY storage, mimetype;
CREATE SEQUENCE oc_ticket MINVALUE 1 MAXVALUE 9999 CYCLE;
SELECT setval('oc_ticket', 9990);
GRANT USAGE ON SCHEMA public TO reports;
GRANT SELECT ON oc_filecache, oc_storages, oc_mimetypes, storage_usage TO reports;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO reports;
