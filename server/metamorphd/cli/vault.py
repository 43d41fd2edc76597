"""`metamorph vault`."""

import click

from metamorphd.cli.vault_operating import list_, release, resume, stats, suspend
from metamorphd.cli.vault_transfer import export_


@click.group()
def vault() -> None:
    """Operate vaults, and take along what one stores."""


vault.add_command(export_)
for command in (list_, stats, suspend, resume, release):
    vault.add_command(command)
