-- Distinguishes this database from others, so that the backups of one do not displace those of another. Its backups, and
-- what is restored from them, have the same one.
CREATE TABLE identity (
    database_id TEXT NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;
INSERT INTO identity (database_id) VALUES (lower(hex(randomblob(16))));
