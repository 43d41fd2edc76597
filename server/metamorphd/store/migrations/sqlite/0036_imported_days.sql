-- The import that a day's usage of a model began with, which is the only one that may add to it: see store/imports.py.

ALTER TABLE daily_usage ADD COLUMN import_id TEXT;
