-- Replies that the model declined to give, and messages whose newest reply it is. They stay out of later prompts.

ALTER TABLE messages ADD COLUMN refused INTEGER NOT NULL DEFAULT 0;
ALTER TABLE turns ADD COLUMN stop_details TEXT;
UPDATE messages SET refused = 1
WHERE (vault_id, message_id) IN (SELECT vault_id, reply_message_id FROM turns WHERE stop_reason = 'REFUSAL');

-- Attachments that the provider has rejected, which are left out of later prompts, and the longer side of images.
ALTER TABLE attachments ADD COLUMN rejected INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attachments ADD COLUMN longest_side INTEGER NOT NULL DEFAULT 0;
