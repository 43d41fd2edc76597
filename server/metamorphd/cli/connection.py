"""How commands reach a server: its address, a token, and TLS."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from metamorphd.cli.arguments import TEXT, VAULT_RULE, profiles

if TYPE_CHECKING:
    import ssl

    from metamorph_client import TLS

    from metamorphd.settings.client import ClientSettings

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
# A name, an address of IPv4, or one of IPv6 in brackets.
_TARGET = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]):(?P<port>[0-9]{1,5})")
# What the metadata of a call can carry, without the space that is between the parts of a header.
_TOKEN = re.compile(r"[!-~]+")
_TLS_SCHEME = "grpcs://"
LAST_PORT = 65_535


def connection_options(command: Any) -> Any:
    """Adds the options of TLS to a command that does not find out by itself whether a server speaks it."""
    option = click.option(
        "--tls", is_flag=True, help="Connect over TLS.  [default: METAMORPH_TLS, or for grpcs://, --ca and --cert]"
    )
    profile = click.option(
        "--profile",
        type=TEXT,
        shell_complete=profiles,
        help="Profile of `metamorph login`.  [default: METAMORPH_PROFILE, else default]",
    )
    return profile(option(tls_options(command)))


def operator_options(command: Any) -> Any:
    """Adds the options of commands that call a server as its operator."""
    command = connection_options(command)
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option(
            "--token",
            type=TEXT,
            help="Operator's token.  [default: METAMORPH_TOKEN, else one signed with EMBLEM_JWT_SECRET]",
        ),
        click.option(
            "--target",
            type=TEXT,
            help="Server, [grpcs://]host:port.  [default: METAMORPH_TARGET, else localhost:GRPC_PORT]",
        ),
    ):
        command = option(command)
    return command


def tenant_options(command: Any) -> Any:
    """Adds the options of commands that call a server as a user of a vault."""
    command = connection_options(command)
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option(
            "--vault", type=TEXT, help="Vault to act on, in dev mode.  [default: METAMORPH_VAULT, else dev-vault]"
        ),
        click.option(
            "--token", type=TEXT, help="Token to send.  [default: METAMORPH_TOKEN; none is needed in dev mode]"
        ),
        click.option(
            "--target",
            type=TEXT,
            help="Server, [grpcs://]host:port.  [default: METAMORPH_TARGET, else localhost:50051]",
        ),
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
    """Returns the settings of a client, in which options that are `given` replace the environment's and the profile's.

    Raises UsageError for those with which no call can be made.
    """
    return _settings(profiles=True, **given)


def profile_settings(**given: Any) -> "ClientSettings":
    """Returns the settings for a new profile, like `client_settings` without any profile's."""
    return _settings(profiles=False, **given)


def _settings(*, profiles: bool, **given: Any) -> "ClientSettings":
    from metamorphd.errors import StartupRefused
    from metamorphd.settings.loading import load_client

    try:
        settings = load_client(profiles=profiles, **given)
    except StartupRefused as exc:
        raise click.UsageError(str(exc)) from exc
    settings = over_named_scheme(settings)
    _refuse_unusable(settings)
    return settings


def over_named_scheme(settings: "ClientSettings") -> "ClientSettings":
    """Returns settings whose target, if it is grpcs://host:port, is host:port over TLS."""
    if not settings.target.startswith(_TLS_SCHEME):
        return settings
    return settings.model_copy(update={"target": settings.target.removeprefix(_TLS_SCHEME), "tls": True})


def _refuse_unusable(settings: "ClientSettings") -> None:
    """Raises UsageError for what gRPC would refuse with a traceback, or nobody could understand."""
    from metamorphd.auth.claims import LONGEST_TOKEN, VAULT_ID

    target = _TARGET.fullmatch(settings.target)
    if target is None or not 0 < int(target["port"]) <= LAST_PORT:
        raise click.UsageError(
            f"{settings.target!r} is not the address of a server; name one as host:port, or as grpcs://host:port"
            " for TLS (--target, METAMORPH_TARGET)"
        )
    token = settings.sent_token
    if token is not None and not (_TOKEN.fullmatch(token) and len(token) <= LONGEST_TOKEN):
        # Not the token itself, which is a secret.
        raise click.UsageError(
            "the token cannot be sent: it has spaces, line breaks, letters beyond ASCII, or more than"
            f" {LONGEST_TOKEN:,} characters; copy it again, as `metamorph token` prints it (--token, METAMORPH_TOKEN)"
        )
    if settings.vault is not None and not VAULT_ID.fullmatch(settings.vault):
        raise click.UsageError(f"{settings.vault!r} is not the ID of a vault; {VAULT_RULE} (--vault, METAMORPH_VAULT)")


def tls_of(settings: "ClientSettings") -> "bool | TLS":
    """Returns the TLS of a client, which is False for plaintext. Raises UsageError for files that are no good."""
    from metamorph_client import TLS

    if not settings.over_tls:
        return False
    try:
        tls_context(settings)
    except OSError as exc:
        raise click.UsageError(f"{exc.filename} cannot be read ({exc.strerror})") from exc
    except ValueError as exc:
        raise click.UsageError(f"{exc}; name PEM files with --ca, --cert and --key") from exc
    return TLS(settings.ca, settings.cert, settings.key)


def tls_context(settings: "ClientSettings") -> "ssl.SSLContext":
    """Returns the TLS of a gRPC client. Raises ValueError if a file is not what it should be."""
    import ssl

    try:
        context = ssl.create_default_context(cafile=settings.ca)
    except OSError as exc:
        raise ValueError(f"{settings.ca} is no PEM file of certificates ({exc.strerror})") from exc
    try:
        if settings.cert is not None:
            context.load_cert_chain(settings.cert, settings.key)
    except OSError as exc:
        raise ValueError(f"{settings.cert} and {settings.key} are no certificate and its key ({exc.strerror})") from exc
    context.set_alpn_protocols(["h2"])
    return context
