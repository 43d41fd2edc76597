"""`metamorph token`."""

import json
import re
import time

import click

from metamorphd.cli.arguments import TEXT, VAULT_RULE

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Lifetime(click.ParamType[int]):
    """A duration such as 30s, 15m, 8h or 90d, converted to seconds."""

    name = "duration"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        from metamorphd.auth.claims import LONGEST_LIFE_SECONDS

        match = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", value)
        if match is None:
            self.fail(f"{value!r} is not a duration such as 15m, 8h or 30d", param, ctx)
        seconds = int(match[1]) * SECONDS[match[2]]
        if seconds > LONGEST_LIFE_SECONDS:
            self.fail(f"{value!r} is longer than the maximum, {LONGEST_LIFE_SECONDS // 86_400}d", param, ctx)
        return seconds


def _permissions(_ctx: click.Context, _param: click.Parameter, value: str) -> list[str]:
    from metamorphd.edge.methods import PERMISSIONS

    requested = [permission for permission in value.split(",") if permission]
    unknown = sorted(set(requested) - PERMISSIONS)
    if unknown:
        raise click.BadParameter(f"unknown: {', '.join(unknown)}; choose from {', '.join(sorted(PERMISSIONS))}")
    return requested


def _vault(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    from metamorphd.auth.claims import VAULT_ID

    if not VAULT_ID.fullmatch(value):
        raise click.BadParameter(VAULT_RULE)
    return value


@click.command()
@click.option("--vault", type=TEXT, required=True, callback=_vault, help="Vault (tenant) of the token.")
@click.option("--user", type=TEXT, default="operator", show_default=True, help="User within the vault.")
@click.option("--email", type=TEXT, help="Email address, returned by WhoAmI.")
@click.option(
    "--permissions",
    default="read,write,delete,admin",
    show_default=True,
    callback=_permissions,
    help="Permissions, separated by commas.",
)
@click.option("--operator", is_flag=True, help="Add the operator claim, for AdminService.")
@click.option("--expires", type=Lifetime(), default="8h", show_default=True, help="Lifetime, such as 15m, 8h, 30d.")
@click.option("--json", "as_json", is_flag=True, help="Print the token and its claims as JSON.")
def token(
    *, vault: str, user: str, email: str | None, permissions: list[str], operator: bool, expires: int, as_json: bool
) -> None:
    """Mint a token, signed with EMBLEM_JWT_SECRET."""
    claims: dict[str, object] = {"vault_id": vault, "sub": user, "permissions": permissions}
    claims |= {"email": email} if email else {}
    claims |= {"operator": True} if operator else {}
    signed, claims = mint(claims, lifetime=expires)
    click.echo(json.dumps({"token": signed, "claims": claims}) if as_json else signed)


def mint(claims: dict[str, object], *, lifetime: int, age: int = 0) -> tuple[str, dict[str, object]]:
    """Returns a token for `lifetime` seconds, signed with EMBLEM_JWT_SECRET, and its claims. Raises StartupRefused.

    It is issued `age` seconds ago.
    """
    import jwt

    from metamorphd.auth.tokens import SHARED
    from metamorphd.clock import Clock
    from metamorphd.settings.loading import load_signing

    signing = load_signing()
    claims |= {"iss": signing.emblem_jwt_issuer} if signing.emblem_jwt_issuer else {}
    claims |= {"aud": signing.emblem_jwt_audience} if signing.emblem_jwt_audience else {}
    now = int(time.time()) - age
    # The id lets this token be revoked by itself, the issue time together with earlier ones.
    claims |= {"jti": Clock().new_id("tok"), "iat": now, "exp": now + lifetime}
    return jwt.encode(claims, signing.jwt_secrets[0], algorithm=SHARED), claims
