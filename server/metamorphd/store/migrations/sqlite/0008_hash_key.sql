-- Named for its use, hashing the bodies in `requests`; the key of a request is (rpc, request_id).
ALTER TABLE vaults RENAME COLUMN request_key TO hash_key;
