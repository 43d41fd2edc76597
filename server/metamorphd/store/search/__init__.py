"""Finding messages by their text."""
