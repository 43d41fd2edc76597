-- Replies that were cut: their turn ended otherwise than COMPLETED. Here, so that reading messages needs no turns.

ALTER TABLE messages ADD COLUMN partial INTEGER NOT NULL DEFAULT 0;
UPDATE messages SET partial = 1
WHERE role = 'ASSISTANT' AND EXISTS (
    SELECT 1 FROM turns
    WHERE turns.vault_id = messages.vault_id AND turns.turn_id = messages.turn_id
        AND turns.reply_message_id = messages.message_id AND turns.status <> 'COMPLETED');
