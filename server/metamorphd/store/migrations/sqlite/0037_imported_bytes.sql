-- What an import stores counts towards what a vault stores: errors and details of turns, records that are staged, and
-- usage. Usage of a vault's own turns does not count, as it cannot be deleted.

UPDATE vaults SET stored_bytes = stored_bytes + (
    SELECT COALESCE(SUM(COALESCE(octet_length(error), 0) + COALESCE(octet_length(stop_details), 0)), 0) FROM turns
    WHERE turns.vault_id = vaults.vault_id AND (error IS NOT NULL OR stop_details IS NOT NULL)
) + (
    SELECT COALESCE(SUM(octet_length(record)), 0) FROM staged_records WHERE staged_records.vault_id = vaults.vault_id
);

CREATE TRIGGER turn_details_stored AFTER INSERT ON turns
WHEN NEW.error IS NOT NULL OR NEW.stop_details IS NOT NULL BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes
        + COALESCE(octet_length(NEW.error), 0) + COALESCE(octet_length(NEW.stop_details), 0)
    WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER turn_details_changed AFTER UPDATE OF error, stop_details ON turns
WHEN NEW.error IS NOT OLD.error OR NEW.stop_details IS NOT OLD.stop_details BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes
        + COALESCE(octet_length(NEW.error), 0) + COALESCE(octet_length(NEW.stop_details), 0)
        - COALESCE(octet_length(OLD.error), 0) - COALESCE(octet_length(OLD.stop_details), 0)
    WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER turn_details_deleted AFTER DELETE ON turns
WHEN OLD.error IS NOT NULL OR OLD.stop_details IS NOT NULL BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes
        - COALESCE(octet_length(OLD.error), 0) - COALESCE(octet_length(OLD.stop_details), 0)
    WHERE vault_id = OLD.vault_id;
END;

CREATE TRIGGER staged_records_stored AFTER INSERT ON staged_records BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes + octet_length(NEW.record) WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER staged_records_deleted AFTER DELETE ON staged_records BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes - octet_length(OLD.record) WHERE vault_id = OLD.vault_id;
END;

-- Whether an import has made the row. It counts as its texts and 100 bytes, which is less than its record.
ALTER TABLE usage ADD COLUMN imported INTEGER NOT NULL DEFAULT 0;
ALTER TABLE subject_usage ADD COLUMN imported INTEGER NOT NULL DEFAULT 0;
CREATE TRIGGER imported_usage_stored AFTER INSERT ON usage WHEN NEW.imported = 1 BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes + 100 + octet_length(NEW.session_id) + octet_length(NEW.model)
    WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER imported_usage_deleted AFTER DELETE ON usage WHEN OLD.imported = 1 BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes - 100 - octet_length(OLD.session_id) - octet_length(OLD.model)
    WHERE vault_id = OLD.vault_id;
END;
CREATE TRIGGER imported_subject_usage_stored AFTER INSERT ON subject_usage WHEN NEW.imported = 1 BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes + 100 + octet_length(NEW.subject) + octet_length(NEW.model)
    WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER imported_subject_usage_deleted AFTER DELETE ON subject_usage WHEN OLD.imported = 1 BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes - 100 - octet_length(OLD.subject) - octet_length(OLD.model)
    WHERE vault_id = OLD.vault_id;
END;
