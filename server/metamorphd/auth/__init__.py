"""Who calls: from a token to a Caller."""
