-- Long work. How far it is, only the server knows that does it, unless the work continues after a restart.

CREATE TABLE operations (
    vault_id TEXT NOT NULL,             -- '' for what is of the whole server; need not be in `vaults`
    operation_id TEXT NOT NULL,         -- newer ones have higher IDs
    kind TEXT NOT NULL,
    target TEXT NOT NULL,
    creator TEXT NOT NULL,
    unit TEXT NOT NULL,
    done_count INTEGER NOT NULL,
    total_count INTEGER NOT NULL,
    create_time INTEGER NOT NULL,
    end_time INTEGER,                   -- NULL while it goes on
    reason TEXT,                        -- why it did not succeed
    message TEXT,
    counts TEXT NOT NULL,               -- JSON object: the result
    PRIMARY KEY (vault_id, operation_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX operations_running ON operations (vault_id, operation_id) WHERE end_time IS NULL;
CREATE INDEX operations_ended ON operations (end_time) WHERE end_time IS NOT NULL;
CREATE UNIQUE INDEX operations_newest_first ON operations (operation_id DESC);
