"""How calls come in: what every call passes, and an adapter for each protocol."""
