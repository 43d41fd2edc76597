"""`metamorph vault export`, `metamorph vault import` and `metamorph vault delete`."""

from pathlib import Path
from typing import Any

import click

from metamorphd.cli.arguments import TEXT
from metamorphd.cli.connection import client_settings, tenant_options


@click.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--resume", is_flag=True, help="Go on with what an interrupted export has left in FILE.part.")
@click.option("--secrets-for", "recipient", type=TEXT, help="age recipient (age1…) that can read values of secrets.")
@tenant_options
def export_(*, file: Path, resume: bool, recipient: str | None, as_json: bool, **connection: Any) -> None:
    """Write all that your vault stores to FILE, and verify its SHA-256.

    The token needs the permission `admin`, and `secrets:read` for --secrets-for.
    """
    from metamorphd.cli.exporting import export_vault

    export_vault(client_settings(**connection), file, resume=resume, recipient=recipient or "", as_json=as_json)


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--from",
    "system",
    type=click.Choice(["chatgpt", "librechat", "open-webui"]),
    help="System whose export FILE is.  [default: Metamorph]",
)
@tenant_options
def import_(*, file: Path, system: str | None, as_json: bool, **connection: Any) -> None:
    """Store all that is in FILE in your vault: everything or nothing.

    What the vault has already stays as it is, so it can be repeated. FILE is what `metamorph vault export` has
    written, or an export of ChatGPT (the zip file), LibreChat (the JSON of a conversation) or open-webui (the JSON of
    all chats).
    The token needs the permission `admin`.
    """
    from metamorphd.cli.importing import import_vault

    import_vault(client_settings(**connection), file, system=system, as_json=as_json)


@click.command()
@click.argument("vault_id", type=TEXT, metavar="VAULT")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--wait/--no-wait", default=True, help="Wait until all is erased.  [default: wait]")
@tenant_options
def delete(*, vault_id: str, yes: bool, wait: bool, as_json: bool, **connection: Any) -> None:
    """Delete VAULT, which must be yours, and erase all that it stores. Nobody can bring it back.

    From the answer on nobody can read it. The erasing goes on in the server if the command is interrupted; repeated, it
    goes on following. Says when the last backup that has the vault is deleted.
    The token needs the permissions `delete` and `admin`. --json requires --yes.
    """
    if as_json and not yes:
        raise click.UsageError("--json does not ask; add --yes")
    from metamorphd.cli.deleting import delete_vault

    delete_vault(client_settings(**connection), vault_id, ask=not yes, wait=wait, as_json=as_json)
