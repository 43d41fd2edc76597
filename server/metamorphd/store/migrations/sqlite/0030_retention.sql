-- Vaults whose sessions are deleted once nobody has used them for so many days. 0 keeps them.

ALTER TABLE vaults ADD COLUMN retention_days INTEGER NOT NULL DEFAULT 0;
CREATE INDEX vaults_retaining ON vaults (vault_id) WHERE retention_days > 0;
