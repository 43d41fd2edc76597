"""Language models, the sources of replies."""
