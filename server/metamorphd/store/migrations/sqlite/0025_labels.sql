-- Labels of sessions and turns, and usage by user and by label.

ALTER TABLE sessions ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';   -- JSON object of strings
ALTER TABLE turns ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';      -- of its session and of its request

-- The sums of turns by one of what they count towards. Stays when sessions are deleted.
CREATE TABLE subject_usage (
    vault_id TEXT NOT NULL,
    kind TEXT NOT NULL,                 -- 'user' or 'label'
    subject TEXT NOT NULL,              -- a user's ID, `key=value`, or '*' for labels beyond the first of a day
    day TEXT NOT NULL,
    model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    cost_usd_nanos INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    turns INTEGER NOT NULL,
    PRIMARY KEY (vault_id, kind, subject, day, model)
) STRICT, WITHOUT ROWID;
-- The subjects of a day and model.
CREATE INDEX subject_usage_by_day ON subject_usage (vault_id, kind, day, model, subject);

-- As far as turns are still there. The day is that of the turn's end.
INSERT INTO subject_usage (vault_id, kind, subject, day, model,
    input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd_nanos, estimated, turns)
SELECT vault_id, 'user', creator, strftime('%Y-%m-%d', finish_time / 1000000, 'unixepoch'), model, SUM(input_tokens),
    SUM(output_tokens), SUM(cache_read_tokens), SUM(cache_write_tokens), SUM(cost_usd_nanos), MAX(estimated), COUNT(*)
FROM turns WHERE finish_time IS NOT NULL GROUP BY 1, 2, 3, 4, 5;

-- Labels count towards what a vault stores.
CREATE TRIGGER session_labels_stored AFTER INSERT ON sessions WHEN NEW.labels <> '{}' BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes + octet_length(NEW.labels) WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER session_labels_changed AFTER UPDATE OF labels ON sessions WHEN NEW.labels <> OLD.labels BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes
        + CASE WHEN NEW.labels = '{}' THEN 0 ELSE octet_length(NEW.labels) END
        - CASE WHEN OLD.labels = '{}' THEN 0 ELSE octet_length(OLD.labels) END
    WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER session_labels_deleted AFTER DELETE ON sessions WHEN OLD.labels <> '{}' BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes - octet_length(OLD.labels) WHERE vault_id = OLD.vault_id;
END;
CREATE TRIGGER turn_labels_stored AFTER INSERT ON turns WHEN NEW.labels <> '{}' BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes + octet_length(NEW.labels) WHERE vault_id = NEW.vault_id;
END;
CREATE TRIGGER turn_labels_deleted AFTER DELETE ON turns WHEN OLD.labels <> '{}' BEGIN
    UPDATE vaults SET stored_bytes = stored_bytes - octet_length(OLD.labels) WHERE vault_id = OLD.vault_id;
END;
