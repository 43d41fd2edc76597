"""Exports and imports of vaults."""
