-- Which server runs a turn, and until when that holds unless it is renewed. Only of a running turn.

ALTER TABLE turns ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE turns ADD COLUMN lease_expire_time INTEGER NOT NULL DEFAULT 0;
CREATE INDEX turns_by_owner ON turns (owner) WHERE status = 'RUNNING';
