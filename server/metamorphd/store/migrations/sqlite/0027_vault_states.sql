-- The vaults that are not active: callers of theirs are refused. A vault need not be in `vaults` to be here.

CREATE TABLE vault_states (
    vault_id TEXT NOT NULL,
    state TEXT NOT NULL,                -- 'suspended' or 'deleted'
    reason TEXT NOT NULL,               -- for the vault's callers
    actor TEXT NOT NULL,                -- the operator who suspended it, or the user who deleted it
    change_time INTEGER NOT NULL,       -- since when
    PRIMARY KEY (vault_id)
) STRICT, WITHOUT ROWID;
