"""`metamorph chat`."""

import click


@click.command()
def chat() -> None:
    """Talk in the terminal."""
