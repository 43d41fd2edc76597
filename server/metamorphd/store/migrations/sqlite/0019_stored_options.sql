-- Options of turns count towards what a vault stores. Tools are kept from turn to turn, so a short message may store many.

UPDATE vaults SET stored_bytes = stored_bytes + (
    SELECT COALESCE(SUM(octet_length(options)), 0) FROM turns
    WHERE turns.vault_id = vaults.vault_id AND options <> '{}');

CREATE TRIGGER turns_stored AFTER INSERT ON turns WHEN NEW.options <> '{}' BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes + octet_length(NEW.options) WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER turns_deleted AFTER DELETE ON turns WHEN OLD.options <> '{}' BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes - octet_length(OLD.options) WHERE vault_id = OLD.vault_id;
END;
