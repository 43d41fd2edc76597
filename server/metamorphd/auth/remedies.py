"""Remedies for refused tokens, by the reason in the log."""

from metamorphd.auth.claims import EXPIRED
from metamorphd.auth.tokens import UNKNOWN_SIGNATURE

_CLOCKS = "if all tokens are refused, the issuer's clock differs from this server's: set both by NTP"

REMEDIES = {
    EXPIRED: f"the caller needs a new token; {_CLOCKS}",
    "iat is ahead": _CLOCKS,
    "nbf is ahead": _CLOCKS,
    UNKNOWN_SIGNATURE: "tokens must be signed with the secret that this server has in EMBLEM_JWT_SECRET",
    "iss is another issuer": "EMBLEM_JWT_ISSUER must be the issuer in the tokens",
    "aud is another audience": "EMBLEM_JWT_AUDIENCE must be the audience in the tokens",
}
