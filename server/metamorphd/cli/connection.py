"""How commands reach a server: its address, a token, and TLS."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import grpc

    from metamorphd.settings.client import ClientSettings

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def connection_options(command: Any) -> Any:
    """Adds the options of TLS to a command that does not find out by itself whether a server speaks it."""
    option = click.option(
        "--tls", is_flag=True, help="Connect over TLS.  [default: METAMORPH_TLS, or if --ca is given]"
    )
    return option(tls_options(command))


def operator_options(command: Any) -> Any:
    """Adds the options of commands that call a server as its operator."""
    command = connection_options(command)
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option(
            "--token",
            help="Operator's token.  [default: METAMORPH_TOKEN, else one signed with EMBLEM_JWT_SECRET]",
        ),
        click.option("--target", help="Server, host:port.  [default: METAMORPH_TARGET, else localhost:GRPC_PORT]"),
    ):
        command = option(command)
    return command


def tls_options(command: Any) -> Any:
    """Adds the options that name the files of TLS to a command."""
    for option in (
        click.option("--key", type=_FILE, help="PEM file of the key of --cert.  [default: METAMORPH_KEY]"),
        click.option("--cert", type=_FILE, help="PEM file of a client certificate.  [default: METAMORPH_CERT]"),
        click.option("--ca", type=_FILE, help="PEM file of the authorities to trust.  [default: METAMORPH_CA]"),
    ):
        command = option(command)
    return command


def client_settings(**given: Any) -> "ClientSettings":
    """Returns the settings of a client, in which options that are `given` replace the environment's."""
    from metamorphd.settings.loading import load_client

    return load_client(**given)


def credentials(settings: "ClientSettings") -> "grpc.ChannelCredentials | None":
    """Returns the credentials of a channel, or None for plaintext. Raises ClickException if a file cannot be read."""
    import grpc

    if not settings.over_tls:
        return None
    try:
        roots, key, chain = (
            None if path is None else path.read_bytes() for path in (settings.ca, settings.key, settings.cert)
        )
    except OSError as exc:
        raise click.ClickException(f"{exc.filename} cannot be read ({exc.strerror})") from exc
    return grpc.ssl_channel_credentials(roots, key, chain)
