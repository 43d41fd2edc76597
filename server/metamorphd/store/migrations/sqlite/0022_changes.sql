-- The log of a vault: one row per change, by revisions without gaps. The newest row stays, because the next revision is
-- its own plus one.

CREATE TABLE changes (
    vault_id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    change_time INTEGER NOT NULL,
    actor TEXT NOT NULL,                -- a user of the vault, or '' for the server and its operator
    call_id TEXT NOT NULL,              -- '' if no call requested it
    resource TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    verb TEXT NOT NULL,
    PRIMARY KEY (vault_id, revision)
) STRICT, WITHOUT ROWID;
