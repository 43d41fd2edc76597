"""SQLite through APSW, imported nowhere else: one writer that commits in groups, a few readers, one of them inline."""
