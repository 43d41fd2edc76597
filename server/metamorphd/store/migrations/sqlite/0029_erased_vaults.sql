-- The ledger of erased vaults. It is also in a file, so that a restore does not take it back, and nothing deletes from it.

CREATE TABLE erased_vaults (
    vault_id TEXT NOT NULL,
    life TEXT NOT NULL,                 -- of this vault, not of a later one with its ID: a hash of its hash_key
    delete_time INTEGER NOT NULL,
    PRIMARY KEY (vault_id, life)
) STRICT, WITHOUT ROWID;

-- Not unique: an operation of a vault is found by its whole key.
DROP INDEX operations_newest_first;
CREATE INDEX operations_newest_first ON operations (operation_id DESC);
