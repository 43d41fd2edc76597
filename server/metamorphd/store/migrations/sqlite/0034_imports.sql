-- Imports that have not ended, one a vault, and what is hidden until they have: see store/staging.py.

CREATE TABLE imports (
    vault_id TEXT NOT NULL REFERENCES vaults,
    import_id TEXT NOT NULL,
    state TEXT NOT NULL,                -- 'staging', 'revealing', 'discarding'
    create_time INTEGER NOT NULL,
    PRIMARY KEY (vault_id)
) STRICT, WITHOUT ROWID;

-- Of sessions and attachments, which are stored hidden, and of all else, which is stored when it is revealed.
CREATE TABLE staged_records (
    vault_id TEXT NOT NULL REFERENCES imports,
    number INTEGER NOT NULL,            -- of its line in the file
    kind TEXT NOT NULL,
    record TEXT NOT NULL,               -- JSON
    PRIMARY KEY (vault_id, number)
) STRICT;
