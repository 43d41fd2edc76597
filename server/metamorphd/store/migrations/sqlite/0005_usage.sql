-- What turns have cost, and what a vault may use up. Days are UTC, as YYYY-MM-DD.

-- Stays when its session is deleted.
CREATE TABLE usage (
    vault_id TEXT NOT NULL,
    day TEXT NOT NULL,                  -- on which the turns ended
    session_id TEXT NOT NULL,
    model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    cost_usd_nanos INTEGER NOT NULL,
    turns INTEGER NOT NULL,
    PRIMARY KEY (vault_id, day, session_id, model)
) STRICT, WITHOUT ROWID;

-- The sums of `usage`, which budgets are compared with: a month of it is 31 rows at most.
CREATE TABLE spending (
    vault_id TEXT NOT NULL,
    day TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    cost_usd_nanos INTEGER NOT NULL,
    PRIMARY KEY (vault_id, day)
) STRICT, WITHOUT ROWID;

-- NULL is no limit.
ALTER TABLE vaults ADD COLUMN tokens_per_day INTEGER;
ALTER TABLE vaults ADD COLUMN tokens_per_month INTEGER;
ALTER TABLE vaults ADD COLUMN cost_usd_nanos_per_day INTEGER;
ALTER TABLE vaults ADD COLUMN cost_usd_nanos_per_month INTEGER;

-- What the operator allows a vault, which need not be in `vaults` yet.
CREATE TABLE vault_limits (
    vault_id TEXT NOT NULL,
    tokens_per_day INTEGER,
    tokens_per_month INTEGER,
    cost_usd_nanos_per_day INTEGER,
    cost_usd_nanos_per_month INTEGER,
    update_time INTEGER NOT NULL,
    PRIMARY KEY (vault_id)
) STRICT, WITHOUT ROWID;

-- What was used before it was counted here. The day is that of the turn's end.
INSERT INTO usage (vault_id, day, session_id, model,
    input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd_nanos, turns)
SELECT vault_id, strftime('%Y-%m-%d', finish_time / 1000000, 'unixepoch'), session_id, model,
    SUM(input_tokens), SUM(output_tokens), SUM(cache_read_tokens), SUM(cache_write_tokens), 0, COUNT(*)
FROM turns WHERE finish_time IS NOT NULL GROUP BY 1, 2, 3, 4;
INSERT INTO spending (vault_id, day, tokens, cost_usd_nanos)
SELECT vault_id, day, SUM(input_tokens + output_tokens + cache_read_tokens + cache_write_tokens), SUM(cost_usd_nanos)
FROM usage GROUP BY 1, 2;
