-- Whether some of the usage is an upper estimate.
ALTER TABLE turns ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0;
ALTER TABLE messages ADD COLUMN estimated INTEGER;
ALTER TABLE usage ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0;
ALTER TABLE daily_usage ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0;

-- How often a title was paid for.
ALTER TABLE sessions ADD COLUMN title_calls INTEGER NOT NULL DEFAULT 0;
