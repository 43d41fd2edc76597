-- Every tenant table's primary key begins with vault_id. Times are microseconds since the epoch, UTC.

CREATE TABLE vaults (
    vault_id TEXT NOT NULL PRIMARY KEY,
    display_name TEXT NOT NULL,
    default_model TEXT NOT NULL,
    system_prompt TEXT NOT NULL,
    request_key BLOB NOT NULL,          -- keys the hashes in `requests`
    revision INTEGER NOT NULL,
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL
) STRICT;

CREATE TABLE sessions (
    vault_id TEXT NOT NULL REFERENCES vaults,
    session_id TEXT NOT NULL,
    title TEXT NOT NULL,
    model TEXT NOT NULL,
    system_prompt TEXT NOT NULL,
    metadata TEXT NOT NULL,             -- JSON object of strings, keys sorted
    archived INTEGER NOT NULL,
    creator TEXT NOT NULL,
    message_count INTEGER NOT NULL,
    current_leaf_message_id TEXT,
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL,
    last_message_time INTEGER,
    last_activity_time INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    PRIMARY KEY (vault_id, session_id)
) STRICT;
CREATE INDEX sessions_by_activity ON sessions (vault_id, last_activity_time DESC, session_id DESC);

CREATE TABLE messages (
    vault_id TEXT NOT NULL,
    message_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    ordinal INTEGER NOT NULL,           -- counts a session's messages from 1; a child's is above its parent's
    parent_message_id TEXT,
    role TEXT NOT NULL,
    content TEXT NOT NULL,              -- JSON array of blocks
    size INTEGER NOT NULL,              -- bytes of content
    turn_id TEXT NOT NULL,
    creator TEXT NOT NULL,
    model TEXT NOT NULL,
    input_tokens INTEGER,
    output_tokens INTEGER,
    cache_read_tokens INTEGER,
    cache_write_tokens INTEGER,
    create_time INTEGER NOT NULL,
    PRIMARY KEY (vault_id, message_id),
    FOREIGN KEY (vault_id, session_id) REFERENCES sessions ON DELETE CASCADE
) STRICT;
CREATE UNIQUE INDEX messages_by_session ON messages (vault_id, session_id, ordinal);

CREATE TABLE turns (
    vault_id TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    user_message_id TEXT NOT NULL,
    reply_message_id TEXT,
    status TEXT NOT NULL,
    stop_reason TEXT,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    model TEXT NOT NULL,
    model_calls INTEGER NOT NULL,
    error TEXT,                         -- JSON object
    last_sequence INTEGER NOT NULL,     -- of the last event, once finished; before, see `events`
    creator TEXT NOT NULL,
    create_time INTEGER NOT NULL,
    finish_time INTEGER,
    PRIMARY KEY (vault_id, turn_id),
    FOREIGN KEY (vault_id, session_id) REFERENCES sessions ON DELETE CASCADE
) STRICT;
CREATE INDEX turns_by_session ON turns (vault_id, session_id);
CREATE INDEX turns_running ON turns (vault_id, session_id, turn_id) WHERE status = 'RUNNING';

-- The deltas of a turn. Its first and its last event are derived from its row in `turns`.
CREATE TABLE events (
    vault_id TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    block_index INTEGER NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (vault_id, turn_id, sequence)
) STRICT, WITHOUT ROWID;

-- What a request_id (AIP-155) has made.
CREATE TABLE requests (
    vault_id TEXT NOT NULL REFERENCES vaults,
    rpc TEXT NOT NULL,
    request_id TEXT NOT NULL,
    body_hash BLOB NOT NULL,
    resource_id TEXT NOT NULL,
    create_time INTEGER NOT NULL,
    PRIMARY KEY (vault_id, rpc, request_id)
) STRICT, WITHOUT ROWID;
