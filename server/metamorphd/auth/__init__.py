"""Authentication: from a bearer token to a Caller."""
