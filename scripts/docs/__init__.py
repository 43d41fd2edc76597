"""Writes the generated pages: `python -m scripts.docs`."""
