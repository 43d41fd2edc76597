"""`metamorph login` and `metamorph logout`."""

import sys
from typing import Any

import click

from metamorphd.cli.arguments import TEXT, profiles
from metamorphd.cli.connection import profile_settings, tls_options


class Name(click.ParamType[str]):
    """The name of a profile."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from metamorphd.settings.profiles import NAME

        if not NAME.fullmatch(value):
            self.fail(f"{value!r} has more than letters, digits, '.', '_' and '-', or more than 64 of them", param, ctx)
        return value


PROFILE = click.argument("profile", type=Name(), metavar="[NAME]", default="default", shell_complete=profiles)


@click.command()
@PROFILE
@click.option(
    "--target", type=TEXT, help="Server, [grpcs://]host:port.  [default: METAMORPH_TARGET, else localhost:50051]"
)
@click.option("--token", type=TEXT, help="Token, or - to read it from standard input.  [default: asked for]")
@click.option("--vault", type=TEXT, help="Vault to act on, in dev mode.")
@click.option("--tls", is_flag=True, help="Connect over TLS.")
@tls_options
@click.option("--list", "listing", is_flag=True, help="List the profiles, and log in to none.")
def login(*, profile: str, token: str | None, listing: bool, **given: Any) -> None:
    """Keep a server, a token and the files of TLS as the profile NAME, for the commands that call a server.

    The server is asked who the token is of, before anything is kept. Without NAME it is the profile that counts if none
    is named with --profile or METAMORPH_PROFILE.
    """
    from metamorphd.cli.logging_in import list_profiles, log_in

    if listing:
        list_profiles()
        return
    if token == "-":  # noqa: S105, it stands for standard input
        token = sys.stdin.readline().strip()
    elif token is None and sys.stdin.isatty():
        token = click.prompt("Token (empty in dev mode)", hide_input=True, default="", show_default=False, err=True)
    log_in(profile_settings(token=token, **given), profile)


@click.command()
@PROFILE
def logout(*, profile: str) -> None:
    """Delete the profile NAME, with its token. The token itself stays valid until it expires or is revoked."""
    from metamorphd.cli.logging_in import log_out

    log_out(profile)
