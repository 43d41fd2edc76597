"""One file a proto service: convert, call, convert."""
