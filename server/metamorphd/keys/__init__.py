"""Encryption of what vaults store: data keys, and the keys that wrap them."""
