-- Secrets: named values in versions, encrypted by the vault's data key, which a key outside of the database wraps.

CREATE TABLE data_keys (
    vault_id TEXT NOT NULL REFERENCES vaults,
    data_key_id TEXT NOT NULL,
    wrapping_key_id TEXT NOT NULL,
    wrapped_key BLOB NOT NULL,
    create_time INTEGER NOT NULL,
    wrap_time INTEGER NOT NULL,         -- when wrapping_key_id wrapped it
    PRIMARY KEY (vault_id, data_key_id)
) STRICT, WITHOUT ROWID;
-- A rotation finds what other keys wrap.
CREATE INDEX data_keys_by_wrapping_key ON data_keys (wrapping_key_id, vault_id, data_key_id);

CREATE TABLE secrets (
    vault_id TEXT NOT NULL REFERENCES vaults,
    name TEXT NOT NULL,
    secret_id TEXT NOT NULL,            -- of this secret, not of a later one with its name
    version INTEGER NOT NULL,           -- the newest
    labels TEXT NOT NULL,               -- JSON
    creator TEXT NOT NULL,
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL,
    expire_time INTEGER,
    PRIMARY KEY (vault_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX secrets_expiring ON secrets (expire_time, vault_id, name) WHERE expire_time IS NOT NULL;

-- With row IDs, because values have up to 64 KiB.
CREATE TABLE secret_versions (
    vault_id TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    data_key_id TEXT NOT NULL,
    sealed_value BLOB,                  -- as keys/sealing.py makes it; NULL once it is destroyed
    creator TEXT NOT NULL,
    create_time INTEGER NOT NULL,
    destroy_time INTEGER,
    PRIMARY KEY (vault_id, name, version),
    FOREIGN KEY (vault_id, name) REFERENCES secrets ON DELETE CASCADE
) STRICT;

CREATE TRIGGER secrets_stored AFTER INSERT ON secrets BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes + octet_length(NEW.name) + octet_length(NEW.labels)
    WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER secrets_changed AFTER UPDATE OF labels ON secrets BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes + octet_length(NEW.labels) - octet_length(OLD.labels)
    WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER secrets_deleted AFTER DELETE ON secrets BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes - octet_length(OLD.name) - octet_length(OLD.labels)
    WHERE vault_id = OLD.vault_id;
END;
CREATE TRIGGER secret_versions_stored AFTER INSERT ON secret_versions BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes + octet_length(NEW.sealed_value) WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER secret_versions_destroyed AFTER UPDATE OF sealed_value ON secret_versions
WHEN NEW.sealed_value IS NULL AND OLD.sealed_value IS NOT NULL BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes - octet_length(OLD.sealed_value) WHERE vault_id = OLD.vault_id;
END;
CREATE TRIGGER secret_versions_deleted AFTER DELETE ON secret_versions WHEN OLD.sealed_value IS NOT NULL BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes - octet_length(OLD.sealed_value) WHERE vault_id = OLD.vault_id;
END;
