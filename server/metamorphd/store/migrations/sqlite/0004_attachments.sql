-- Images and documents, stored once a vault, and the messages that hold them.

CREATE TABLE attachments (
    vault_id TEXT NOT NULL REFERENCES vaults,
    attachment_id TEXT NOT NULL,
    media_type TEXT NOT NULL,
    size INTEGER NOT NULL,              -- bytes
    sha256 TEXT NOT NULL,
    create_time INTEGER NOT NULL,
    upload_time INTEGER,                -- the last one; NULL once it is sent
    PRIMARY KEY (vault_id, attachment_id)
) STRICT;
CREATE INDEX attachments_unused ON attachments (upload_time) WHERE upload_time IS NOT NULL;

-- Their bytes, in pieces of 1 MiB.
CREATE TABLE attachment_chunks (
    vault_id TEXT NOT NULL,
    attachment_id TEXT NOT NULL,
    number INTEGER NOT NULL,            -- from 0
    data BLOB NOT NULL,
    PRIMARY KEY (vault_id, attachment_id, number),
    FOREIGN KEY (vault_id, attachment_id) REFERENCES attachments ON DELETE CASCADE
) STRICT;

CREATE TABLE attachment_uses (
    vault_id TEXT NOT NULL,
    attachment_id TEXT NOT NULL,
    message_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    PRIMARY KEY (vault_id, attachment_id, message_id),
    FOREIGN KEY (vault_id, attachment_id) REFERENCES attachments ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX attachment_uses_by_session ON attachment_uses (vault_id, session_id, message_id);
