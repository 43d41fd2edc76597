-- Budgets of users and of labels, by the vault itself and by its operator, whose vault need not be there yet.

CREATE TABLE subject_budgets (
    vault_id TEXT NOT NULL,
    kind TEXT NOT NULL,                 -- 'user' or 'label'
    subject TEXT NOT NULL,              -- a user's ID, '' for users who have no row, or `key=value`
    set_by TEXT NOT NULL,               -- 'vault' or 'operator'
    tokens_per_day INTEGER,             -- NULL is no limit
    tokens_per_month INTEGER,
    cost_usd_nanos_per_day INTEGER,
    cost_usd_nanos_per_month INTEGER,
    PRIMARY KEY (vault_id, kind, subject, set_by)
) STRICT, WITHOUT ROWID;
