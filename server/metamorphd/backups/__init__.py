"""Backups: files beside the database, each with a manifest."""
