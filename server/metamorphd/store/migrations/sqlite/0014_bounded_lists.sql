-- Lists whose filters are found by an index, or read in steps of a bounded number of rows.

CREATE INDEX sessions_by_creator ON sessions (vault_id, creator, last_activity_time DESC, session_id DESC);
CREATE INDEX sessions_by_archived ON sessions (vault_id, archived, last_activity_time DESC, session_id DESC);

-- The pairs of `sessions.metadata`.
CREATE TABLE session_metadata (
    vault_id TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    session_id TEXT NOT NULL,
    PRIMARY KEY (vault_id, key, value, session_id),
    FOREIGN KEY (vault_id, session_id) REFERENCES sessions ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX session_metadata_by_session ON session_metadata (vault_id, session_id);
INSERT INTO session_metadata (vault_id, key, value, session_id)
SELECT vault_id, pair.key, pair.value, session_id FROM sessions, json_each(metadata) AS pair;

-- With all columns that are asked for, so that the planner takes it instead of the index of all turns of a session.
DROP INDEX turns_running;
CREATE INDEX turns_running ON turns (vault_id, session_id, turn_id, user_message_id) WHERE status = 'RUNNING';
