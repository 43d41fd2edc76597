"""One module per proto service: convert, call, convert."""
