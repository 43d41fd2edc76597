-- Entries of logs are authenticated in a chain, and are kept for longer than WatchVault shows them.

ALTER TABLE changes ADD COLUMN operator INTEGER NOT NULL DEFAULT 0;   -- 1: actor is the server's operator
ALTER TABLE changes ADD COLUMN detail TEXT NOT NULL DEFAULT '';       -- JSON, or ''
ALTER TABLE changes ADD COLUMN key_id TEXT NOT NULL DEFAULT '';       -- of the key that made mac
ALTER TABLE changes ADD COLUMN mac BLOB NOT NULL DEFAULT x'';         -- as chain.py makes it; empty without a key

-- Where a vault's log begins, once something of it is too old. Logs without a row begin with revision 1.
CREATE TABLE log_beginnings (
    vault_id TEXT NOT NULL PRIMARY KEY,
    compacted_revision INTEGER NOT NULL,    -- WatchVault shows nothing up to here
    deleted_revision INTEGER NOT NULL,      -- no entry is kept up to here
    deleted_mac BLOB NOT NULL,              -- of the last entry that was deleted
    key_id TEXT NOT NULL,
    seal BLOB NOT NULL                      -- says that the server deleted them; as chain.py makes it
) STRICT, WITHOUT ROWID;

INSERT INTO log_beginnings (vault_id, compacted_revision, deleted_revision, deleted_mac, key_id, seal)
SELECT vault_id, MIN(revision) - 1, MIN(revision) - 1, x'', '', x'' FROM changes
GROUP BY vault_id HAVING MIN(revision) > 1;
