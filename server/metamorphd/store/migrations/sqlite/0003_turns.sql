-- Replies of more than text, the options of a turn, what it costs, and messages whose content is deleted.

ALTER TABLE messages ADD COLUMN cost_usd_nanos INTEGER;
ALTER TABLE messages ADD COLUMN delete_time INTEGER;

ALTER TABLE turns ADD COLUMN cost_usd_nanos INTEGER NOT NULL DEFAULT 0;
ALTER TABLE turns ADD COLUMN reserved_tokens INTEGER NOT NULL DEFAULT 0;           -- of the vault's budgets, while it runs
ALTER TABLE turns ADD COLUMN reserved_cost_usd_nanos INTEGER NOT NULL DEFAULT 0;
ALTER TABLE turns ADD COLUMN options TEXT NOT NULL DEFAULT '{}';                   -- JSON object; what it leaves out is as usual
ALTER TABLE turns ADD COLUMN pruned INTEGER NOT NULL DEFAULT 0;                    -- its events are all there 0, going 1, gone 2
DROP INDEX turns_by_session;
CREATE INDEX turns_by_session ON turns (vault_id, session_id, turn_id);
CREATE INDEX turns_to_prune ON turns (finish_time) WHERE pruned = 0 AND finish_time IS NOT NULL;
CREATE INDEX turns_being_pruned ON turns (vault_id, turn_id) WHERE pruned = 1;

-- What `text` is: of text and thinking more of it, of the others a JSON object.
ALTER TABLE events ADD COLUMN kind TEXT NOT NULL DEFAULT 'text';

-- The text of messages. The ids are indexed too: a row is found by its vault, its session and its message.
CREATE VIRTUAL TABLE message_search USING fts5 (
    vault_id, session_id, message_id, text, tokenize = "unicode61 remove_diacritics 2"
);
INSERT INTO message_search (vault_id, session_id, message_id, text)
SELECT vault_id, session_id, message_id,
    substr((SELECT group_concat(block.value ->> 'text', char(10)) FROM json_each(content) AS block), 1, 65536)
FROM messages;
