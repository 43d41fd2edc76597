"""Code of others that no package of theirs provides in this form."""
