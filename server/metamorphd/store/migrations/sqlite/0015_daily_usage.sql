-- The sums of `usage` by day and model, which lists that do not ask for sessions read, and budgets.

CREATE TABLE daily_usage (
    vault_id TEXT NOT NULL,
    day TEXT NOT NULL,
    model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    cost_usd_nanos INTEGER NOT NULL,
    turns INTEGER NOT NULL,
    PRIMARY KEY (vault_id, day, model)
) STRICT, WITHOUT ROWID;
INSERT INTO daily_usage (vault_id, day, model,
    input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd_nanos, turns)
SELECT vault_id, day, model, SUM(input_tokens), SUM(output_tokens), SUM(cache_read_tokens), SUM(cache_write_tokens),
    SUM(cost_usd_nanos), SUM(turns)
FROM usage GROUP BY 1, 2, 3;
DROP TABLE spending;

-- One session's usage, and the sessions of a day and model.
CREATE INDEX usage_by_session ON usage (vault_id, session_id, day, model);
CREATE INDEX usage_by_day ON usage (vault_id, day, model, session_id);
