-- Messages because of which the provider has rejected later ones. Their content stays out of later prompts.

ALTER TABLE messages ADD COLUMN rejected INTEGER NOT NULL DEFAULT 0;

-- The pages that documents state. The provider rejects prompts with too many.
ALTER TABLE attachments ADD COLUMN pages INTEGER NOT NULL DEFAULT 0;
