"""`metamorph complete`."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def complete(ctx: click.Context, shell: str) -> None:
    """Print what has SHELL complete the commands and options of metamorph."""
    completion = get_completion_class(shell)
    if completion is None:
        raise click.UsageError(f"there is no completion for {shell}")
    # The name of the variable is the one that click derives from the program's.
    click.echo(completion(ctx.find_root().command, {}, "metamorph", "_METAMORPH_COMPLETE").source())
