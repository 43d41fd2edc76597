-- The bytes that a vault stores: contents of messages, attachments, and the fields of sessions. Triggers count them, so
-- that every deletion does, cascades included. An operator's limit of NULL is the server's default.

ALTER TABLE vaults ADD COLUMN stored_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vault_limits ADD COLUMN storage_bytes INTEGER;

UPDATE vaults SET stored_bytes =
    (SELECT COALESCE(SUM(size), 0) FROM message_links WHERE message_links.vault_id = vaults.vault_id)
    + (SELECT COALESCE(SUM(size), 0) FROM attachments WHERE attachments.vault_id = vaults.vault_id)
    + (SELECT COALESCE(SUM(octet_length(title) + octet_length(system_prompt) + octet_length(metadata)), 0)
       FROM sessions WHERE sessions.vault_id = vaults.vault_id);

CREATE TRIGGER messages_stored AFTER INSERT ON messages BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes + NEW.size WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER messages_changed AFTER UPDATE OF size ON messages WHEN NEW.size <> OLD.size BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes + NEW.size - OLD.size WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER messages_deleted AFTER DELETE ON messages BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes - OLD.size WHERE vault_id = OLD.vault_id;
END;
CREATE TRIGGER attachments_stored AFTER INSERT ON attachments BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes + NEW.size WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER attachments_deleted AFTER DELETE ON attachments BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes - OLD.size WHERE vault_id = OLD.vault_id;
END;
CREATE TRIGGER sessions_stored AFTER INSERT ON sessions BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes
        + octet_length(NEW.title) + octet_length(NEW.system_prompt) + octet_length(NEW.metadata)
    WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER sessions_changed AFTER UPDATE OF title, system_prompt, metadata ON sessions BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes
        + octet_length(NEW.title) + octet_length(NEW.system_prompt) + octet_length(NEW.metadata)
        - octet_length(OLD.title) - octet_length(OLD.system_prompt) - octet_length(OLD.metadata)
    WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER sessions_deleted AFTER DELETE ON sessions BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes
        - octet_length(OLD.title) - octet_length(OLD.system_prompt) - octet_length(OLD.metadata)
    WHERE vault_id = OLD.vault_id;
END;
