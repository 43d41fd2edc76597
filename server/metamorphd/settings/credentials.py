"""The settings of credentials."""

import fnmatch
import re
from datetime import date
from pathlib import Path

from pydantic import BaseModel, Field, SecretStr

from metamorphd.settings.values import AuthorityUrl, ExactBoolean, VaultPatterns


class CredentialSettings(BaseModel):
    """The keys of the model provider, of the tokens that say who a caller is, and of what is encrypted."""

    anthropic_api_key: SecretStr | None = Field(
        default=None,
        description="Claude API key. Required in production. Elsewhere, an offline model answers if it is not set.",
    )
    emblem_jwt_secret: SecretStr | None = Field(
        default=None,
        description=(
            "Secret that signs callers' tokens (HS256), at least 32 characters. Required in production, and elsewhere "
            "unless dev mode is on or EMBLEM_JWKS_URL or EMBLEM_API_URL is set."
        ),
    )
    emblem_jwt_secret_previous: SecretStr | None = Field(
        default=None,
        description="Previous secrets, separated by commas. Tokens signed with them stay valid during a rotation.",
    )
    emblem_jwt_secret_date: date | None = Field(
        default=None,
        description=(
            "Day since which EMBLEM_JWT_SECRET is in use, such as 2026-11-01. `metamorph check` then says when to "
            "rotate it."
        ),
    )
    token_encryption_key: SecretStr | None = Field(
        default=None,
        description="Key that wraps the keys of secrets, at least 32 characters. Default: no secrets can be stored.",
    )
    token_encryption_key_previous: SecretStr | None = Field(
        default=None,
        description="Previous keys, separated by commas, until `metamorph keys rotate` says that nothing needs them.",
    )
    token_encryption_key_date: date | None = Field(
        default=None,
        description=(
            "Day since which TOKEN_ENCRYPTION_KEY is in use, such as 2026-11-01. `metamorph check` then says when to "
            "rotate it."
        ),
    )
    token_encryption_key_file: Path | None = Field(
        default=None,
        description=(
            "File with such keys instead, made with `metamorph keys create`, to which `metamorph keys rotate` adds new "
            "ones. Keep it on another volume than the database."
        ),
    )
    audit_key: SecretStr | None = Field(
        default=None,
        description=(
            "Key that authenticates the logs of vaults, at least 32 characters. Default: an audit cannot find what was "
            "changed in the database."
        ),
    )
    audit_key_previous: SecretStr | None = Field(
        default=None,
        description="Previous keys, separated by commas, for entries that are older than AUDIT_KEY.",
    )
    audit_tsa_url: AuthorityUrl = Field(
        default=None,
        description=(
            "URL of an authority that time-stamps the heads of logs (RFC 3161), for example "
            "http://timestamp.example.com. Default: they are not time-stamped."
        ),
    )
    audit_tsa_certificates: Path | None = Field(
        default=None,
        description="PEM file of the certificates to trust for time stamps: the root of that authority's.",
    )
    audit_tsa_interval_minutes: float = Field(
        default=10,
        ge=1,
        le=1440,
        description="Minutes between two requests for time stamps. There is none while no log has new entries.",
    )
    emblem_jwt_issuer: str | None = Field(default=None, description="If set, tokens must have this issuer (`iss`).")
    emblem_jwt_audience: str | None = Field(default=None, description="If set, tokens must have this audience (`aud`).")
    emblem_jwks_url: str | None = Field(
        default=None,
        description=(
            "HTTPS URL of a JSON Web Key Set, for tokens signed with RS256, ES256 or EdDSA. In production it requires "
            "EMBLEM_JWT_ISSUER and EMBLEM_JWT_AUDIENCE."
        ),
    )
    emblem_jwks_vaults: VaultPatterns = Field(
        default=None,
        description=(
            "Vaults that tokens of the key set may name, separated by commas; `*` stands for any characters. Default: "
            "all."
        ),
    )
    emblem_jwks_operators: ExactBoolean = Field(
        default=False,
        description=(
            "`true` lets tokens of the key set name operators. Otherwise only tokens signed with EMBLEM_JWT_SECRET can."
        ),
    )
    emblem_api_url: str | None = Field(
        default="https://api.emblemvault.ai",
        description=(
            "Emblem API, which identifies callers whose tokens this server cannot verify itself. Set to nothing, it "
            "is not used. `metamorph dev` never uses it."
        ),
    )

    @property
    def jwt_secrets(self) -> list[str]:
        """Returns the accepted signing secrets, the current one first."""
        return _texts(self.emblem_jwt_secret, self.emblem_jwt_secret_previous)

    @property
    def key_texts(self) -> list[str]:
        """Returns the keys that wrap data keys as they are given, the current one first."""
        return _texts(self.token_encryption_key, self.token_encryption_key_previous)

    @property
    def audit_key_texts(self) -> list[str]:
        """Returns the keys that authenticate logs as they are given, the current one first."""
        return _texts(self.audit_key, self.audit_key_previous)

    @property
    def jwks_vaults(self) -> re.Pattern[str] | None:
        """Returns a pattern that matches the whole of each vault ID that the key set may name, or None for all."""
        if self.emblem_jwks_vaults is None:
            return None
        # `translate` knows more than `*`, which the setting does not accept. Its patterns do not backtrack, however
        # many stars they have: whoever signs tokens chooses the vault IDs.
        return re.compile("|".join(map(fnmatch.translate, re.split(" *, *", self.emblem_jwks_vaults))))

    @property
    def has_other_identities(self) -> bool:
        """Returns whether a source of identities besides our own secret was configured explicitly."""
        given = self.model_fields_set & {"emblem_jwks_url", "emblem_api_url"}
        return any(getattr(self, name) for name in given)


def _texts(current: SecretStr | None, previous: SecretStr | None) -> list[str]:
    """Returns keys as they are given, the current one first, then the previous ones, which commas separate."""
    older = [] if previous is None else previous.get_secret_value().split(",")
    first = [] if current is None else [current.get_secret_value()]
    return first + [text.strip() for text in older if text.strip()]
