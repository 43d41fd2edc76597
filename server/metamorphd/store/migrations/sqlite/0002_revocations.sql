-- Tokens that count no more. They are never forgotten: a token that does not say when it was issued may expire any time.
CREATE TABLE revocations (
    vault_id TEXT NOT NULL,             -- of the tokens; need not be in `vaults` yet
    revocation_id TEXT NOT NULL,
    token_id TEXT,                      -- one token's jti, or
    user_id TEXT,                       -- a user whose tokens count no more
    issued_before INTEGER,              -- if they were issued before
    note TEXT NOT NULL,
    creator TEXT NOT NULL,
    create_time INTEGER NOT NULL,
    PRIMARY KEY (vault_id, revocation_id),
    CHECK ((token_id IS NULL) <> (user_id IS NULL) AND (user_id IS NULL) = (issued_before IS NULL))
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX revocations_by_token ON revocations (vault_id, token_id) WHERE token_id IS NOT NULL;
CREATE UNIQUE INDEX revocations_by_user ON revocations (vault_id, user_id) WHERE user_id IS NOT NULL;
CREATE INDEX revocations_newest_first ON revocations (revocation_id DESC);
