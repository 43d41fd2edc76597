-- How many tokens of memories are put to each message of a session, and whether the model has the memory tool there.

ALTER TABLE sessions ADD COLUMN recall_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN memory_tool INTEGER NOT NULL DEFAULT 0;
