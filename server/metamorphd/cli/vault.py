"""`metamorph vault`."""

import click

from metamorphd.cli.vault_transfer import export_


@click.group()
def vault() -> None:
    """Take along what a vault stores."""


vault.add_command(export_)
