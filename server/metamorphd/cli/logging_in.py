"""Makes, lists and deletes profiles."""

import click
from metamorph_client import MetamorphClient
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest

from metamorphd.cli.backups import shown_time
from metamorphd.cli.tenant import run_as_tenant
from metamorphd.errors import StartupRefused
from metamorphd.settings.client import ClientSettings
from metamorphd.settings.profiles import delete_profile, profile_names, read_profile, write_profile


def log_in(settings: ClientSettings, name: str) -> None:
    """Keeps settings as a profile, once the server has accepted them. Raises ClickException."""

    async def ask(client: MetamorphClient) -> bool:
        caller = await client.vault.WhoAmI(WhoAmIRequest())
        path = write_profile(name, _kept(settings))
        until = f", until {shown_time(caller.expire_time.seconds)} UTC" if caller.HasField("expire_time") else ""
        click.echo(f"You are {caller.user_id} of vault {caller.vault_id} at {settings.target}{until}. Kept in {path}.")
        return True

    run_as_tenant(settings, ask)


def _kept(settings: ClientSettings) -> dict[str, str | bool]:
    """Returns what of settings a profile has. Files are named from the root: commands run elsewhere."""
    files = {name: getattr(settings, name) for name in ("ca", "cert", "key")}
    kept = {
        "target": settings.target,
        "token": settings.sent_token,
        "vault": settings.vault,
        "tls": settings.tls,
        **{name: str(path.absolute()) for name, path in files.items() if path is not None},
    }
    return {name: value for name, value in kept.items() if value}


def list_profiles() -> None:
    """Prints the names of profiles and their servers, a line each."""
    for name in profile_names():
        try:
            target = (read_profile(name) or {}).get("target", "")
        except StartupRefused as exc:
            target = str(exc)
        click.echo(f"{name}\t{target}")


def log_out(name: str) -> None:
    """Deletes a profile. Raises ClickException if there is none."""
    if not delete_profile(name):
        raise click.ClickException(f"there is no profile {name}; `metamorph login --list` has those that there are")
    click.echo(f"The profile {name} is deleted.")
