"""Following a replica of another server's database, which Litestream writes."""
