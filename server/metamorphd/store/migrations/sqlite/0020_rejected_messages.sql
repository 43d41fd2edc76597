-- Messages because of which the provider has rejected later ones. Their content stays out of later prompts.

ALTER TABLE messages ADD COLUMN rejected INTEGER NOT NULL DEFAULT 0;
