-- Words are folded otherwise, and pairs of characters are indexed (store/search/words.py). Messages that are indexed by
-- the earlier words are indexed anew in steps (store/search/refolding.py).

ALTER TABLE indexed_messages ADD COLUMN folding INTEGER NOT NULL DEFAULT 1;     -- 1: the earlier one; 2: this one
CREATE INDEX indexed_messages_to_refold ON indexed_messages (vault_id, folding) WHERE folding = 1;
