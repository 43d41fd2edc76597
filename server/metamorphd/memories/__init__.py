"""What a vault remembers."""
