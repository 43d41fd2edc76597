-- A deleted session is hidden at once, and erased in steps with everything in it (store/erasure.py).

ALTER TABLE sessions ADD COLUMN delete_time INTEGER;
CREATE INDEX sessions_deleted ON sessions (vault_id, session_id) WHERE delete_time IS NOT NULL;
