-- What is deleted is hidden at once, and erased in steps (store/erasure.py).

ALTER TABLE sessions ADD COLUMN delete_time INTEGER;

-- What is hidden and not erased yet.
CREATE TABLE erasures (
    vault_id TEXT NOT NULL,
    due_time INTEGER NOT NULL,          -- of its deletion, or of the next attempt after one that failed
    resource TEXT NOT NULL,             -- 'session', 'message' or 'attachment'
    id TEXT NOT NULL,
    delete_time INTEGER NOT NULL,       -- when it was hidden
    PRIMARY KEY (vault_id, due_time, resource, id)
) STRICT, WITHOUT ROWID;
