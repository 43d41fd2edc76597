"""`metamorph vault`."""

import click

from metamorphd.cli.vault_operating import list_, release, resume, stats, suspend
from metamorphd.cli.vault_transfer import delete, export_, import_


@click.group()
def vault() -> None:
    """Operate vaults, take along what one stores, bring it back, or have it erased."""


for command in (list_, stats, suspend, resume, release, export_, import_, delete):
    vault.add_command(command)
