-- The full-text index: see store/search/postings.py. What it replaces is removed in steps (store/sqlite/old_index.py).

ALTER TABLE vaults ADD COLUMN first_message_number INTEGER NOT NULL DEFAULT 1;
ALTER TABLE vaults ADD COLUMN last_message_number INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vaults ADD COLUMN unindexed_before TEXT;       -- messages with lower ids are not indexed yet; NULL: all are
UPDATE vaults SET unindexed_before = (SELECT MAX(message_id) || '~' FROM messages WHERE vault_id = vaults.vault_id);
CREATE INDEX vaults_to_index ON vaults (vault_id) WHERE unindexed_before IS NOT NULL;

CREATE TABLE indexed_messages (
    vault_id TEXT NOT NULL,
    number INTEGER NOT NULL,            -- newer messages have higher ones
    message_id TEXT NOT NULL,
    word_count INTEGER NOT NULL,        -- how many of its different words are in `postings`, from the first
    pending INTEGER NOT NULL,           -- whether more of them are to follow
    PRIMARY KEY (vault_id, number)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX indexed_messages_by_message ON indexed_messages (vault_id, message_id);
CREATE INDEX indexed_messages_pending ON indexed_messages (vault_id, pending) WHERE pending = 1;

CREATE TABLE postings (
    vault_id TEXT NOT NULL,
    block INTEGER NOT NULL,             -- of 1,024 numbers; from 2^30 on, a group of 256 blocks
    term BLOB NOT NULL,                 -- a keyed hash of a word, 8 bytes
    offsets BLOB NOT NULL,              -- numbers in the block, or blocks in the group: two bytes each, big-endian
    PRIMARY KEY (vault_id, block, term)
) STRICT, WITHOUT ROWID;
