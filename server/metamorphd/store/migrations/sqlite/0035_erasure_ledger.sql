-- A deletion and a start cost what they add to the ledger's files, not what is in them.

-- Entries of the ledger that one of its files may lack.
CREATE TABLE unfiled_entries (
    vault_id TEXT NOT NULL,
    life TEXT NOT NULL,
    place TEXT NOT NULL,                -- of the file
    PRIMARY KEY (vault_id, life, place)
) STRICT, WITHOUT ROWID;

-- The files of the ledger. A file has all entries that are not in unfiled_entries, if it is the one that was read up to
-- here, and those before this position are in erased_vaults.
CREATE TABLE ledger_files (
    place TEXT NOT NULL PRIMARY KEY,
    offset INTEGER NOT NULL,
    tail TEXT NOT NULL                  -- a hash of what is before
) STRICT, WITHOUT ROWID;
