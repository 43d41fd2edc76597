"""Memories of vaults: search, and the model's tool."""
