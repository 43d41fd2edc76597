-- The tree of a session's messages, apart from their content: reading a column behind a long content reads all of it.

-- Again, if the fill was interrupted.
CREATE TABLE IF NOT EXISTS message_links (
    vault_id TEXT NOT NULL,
    message_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    parent_message_id TEXT,
    depth INTEGER NOT NULL,             -- of a root 1, of others one more than their parent's
    jump_message_id TEXT NOT NULL,      -- an ancestor; of a root the root itself
    jump_depth INTEGER NOT NULL,
    size INTEGER NOT NULL,              -- bytes of content
    opens INTEGER NOT NULL,             -- whether a prompt can begin with it
    summarizes INTEGER NOT NULL,        -- whether it replaces what precedes it in a prompt
    PRIMARY KEY (vault_id, message_id),
    FOREIGN KEY (vault_id, message_id) REFERENCES messages ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
