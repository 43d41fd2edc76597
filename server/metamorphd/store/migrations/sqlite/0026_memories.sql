-- Memories. Their words are in `postings`, by numbers that begin at 2^50 (store/search/postings.py).

ALTER TABLE vaults ADD COLUMN last_memory_number INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vaults ADD COLUMN memory_count INTEGER NOT NULL DEFAULT 0;      -- superseded ones included, hidden ones not

-- With row IDs, because contents have up to 32 KiB. These come last, so that what precedes them is read without them.
CREATE TABLE memories (
    vault_id TEXT NOT NULL REFERENCES vaults,
    memory_id TEXT NOT NULL,
    number INTEGER NOT NULL,            -- newer memories have higher ones
    state INTEGER NOT NULL,             -- 0: in force; 1: superseded; -1: hidden, to be erased
    type TEXT NOT NULL,
    importance REAL NOT NULL,
    path TEXT,                          -- of a file, below /memories
    content_key BLOB,                   -- a keyed hash of type, path and folded content; NULL once hidden
    superseded_by TEXT,
    creator TEXT NOT NULL,
    session_id TEXT,
    message_id TEXT,
    word_count INTEGER NOT NULL,        -- how many of its different words are in `postings`, from the first
    size INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL,
    last_use_time INTEGER NOT NULL,
    expire_time INTEGER,
    metadata TEXT NOT NULL,             -- JSON
    content TEXT NOT NULL,
    PRIMARY KEY (vault_id, memory_id)
) STRICT;
CREATE UNIQUE INDEX memories_by_content ON memories (vault_id, content_key) WHERE content_key IS NOT NULL;
CREATE UNIQUE INDEX memories_by_path ON memories (vault_id, path) WHERE path IS NOT NULL;
CREATE INDEX memories_by_state ON memories (vault_id, state, number);
CREATE INDEX memories_by_use ON memories (vault_id, state, last_use_time, number);
CREATE INDEX memories_expiring ON memories (expire_time, vault_id, memory_id) WHERE expire_time IS NOT NULL;

CREATE TRIGGER memories_stored AFTER INSERT ON memories BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes + NEW.size, memory_count = memory_count + 1
    WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER memories_changed AFTER UPDATE OF size, state ON memories
WHEN NEW.size <> OLD.size OR NEW.state <> OLD.state BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes + NEW.size - OLD.size,
        memory_count = memory_count + (NEW.state >= 0) - (OLD.state >= 0)
    WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER memories_deleted AFTER DELETE ON memories BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes - OLD.size, memory_count = memory_count - (OLD.state >= 0)
    WHERE vault_id = OLD.vault_id;
END;
