-- What a vault has of each kind, so that nobody has to count rows. As `stored_bytes`, with what is not erased yet.

ALTER TABLE vaults ADD COLUMN session_count INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vaults ADD COLUMN message_count INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vaults ADD COLUMN turn_count INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vaults ADD COLUMN attachment_count INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vaults ADD COLUMN secret_count INTEGER NOT NULL DEFAULT 0;

UPDATE vaults SET
    session_count = (SELECT COUNT(*) FROM sessions WHERE sessions.vault_id = vaults.vault_id),
    message_count = (SELECT COUNT(*) FROM message_links WHERE message_links.vault_id = vaults.vault_id),
    turn_count = (SELECT COUNT(*) FROM turns WHERE turns.vault_id = vaults.vault_id),
    attachment_count = (SELECT COUNT(*) FROM attachments WHERE attachments.vault_id = vaults.vault_id),
    secret_count = (SELECT COUNT(*) FROM secrets WHERE secrets.vault_id = vaults.vault_id);

CREATE TRIGGER sessions_counted AFTER INSERT ON sessions BEGIN
    UPDATE vaults SET session_count = session_count + 1 WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER sessions_discounted AFTER DELETE ON sessions BEGIN
    UPDATE vaults SET session_count = session_count - 1 WHERE vault_id = OLD.vault_id;
END;
CREATE TRIGGER messages_counted AFTER INSERT ON messages BEGIN
    UPDATE vaults SET message_count = message_count + 1 WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER messages_discounted AFTER DELETE ON messages BEGIN
    UPDATE vaults SET message_count = message_count - 1 WHERE vault_id = OLD.vault_id;
END;
CREATE TRIGGER turns_counted AFTER INSERT ON turns BEGIN
    UPDATE vaults SET turn_count = turn_count + 1 WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER turns_discounted AFTER DELETE ON turns BEGIN
    UPDATE vaults SET turn_count = turn_count - 1 WHERE vault_id = OLD.vault_id;
END;
CREATE TRIGGER attachments_counted AFTER INSERT ON attachments BEGIN
    UPDATE vaults SET attachment_count = attachment_count + 1 WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER attachments_discounted AFTER DELETE ON attachments BEGIN
    UPDATE vaults SET attachment_count = attachment_count - 1 WHERE vault_id = OLD.vault_id;
END;
CREATE TRIGGER secrets_counted AFTER INSERT ON secrets BEGIN
    UPDATE vaults SET secret_count = secret_count + 1 WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER secrets_discounted AFTER DELETE ON secrets BEGIN
    UPDATE vaults SET secret_count = secret_count - 1 WHERE vault_id = OLD.vault_id;
END;

-- The operator lists the vaults of a state.
CREATE INDEX vault_states_by_state ON vault_states (state, vault_id);
