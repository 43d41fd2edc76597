-- What is deleted is to be gone from the file too: the index would keep a deleted word until it merges its parts.
INSERT INTO message_search (message_search, rank) VALUES ('secure-delete', 1);
INSERT INTO message_search (message_search) VALUES ('optimize');
