"""Secrets: sealed before they are stored, unsealed after they were read."""
