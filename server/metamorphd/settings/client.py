"""The settings of the commands that call a server."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ClientSettings(BaseSettings):
    """The settings of the commands that call a server."""

    model_config = SettingsConfigDict(
        env_prefix="METAMORPH_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    target: str = Field(
        default="localhost:50051", description="Server to connect to, host:port, or grpcs://host:port for TLS."
    )
    token: SecretStr | None = Field(default=None, description="Token to send. Not needed in dev mode.")
    vault: str | None = Field(default=None, description="Vault to use in dev mode.")
    tls: bool = Field(default=False, description="Connect over TLS.")
    ca: Path | None = Field(
        default=None, description="PEM file of the authorities to trust instead of the system's. Connects over TLS."
    )
    cert: Path | None = Field(
        default=None, description="PEM file of the certificate to present if the server asks for one (mTLS)."
    )
    key: Path | None = Field(default=None, description="PEM file of the key of METAMORPH_CERT.")

    profile: str | None = Field(
        default=None,
        description="Profile of `metamorph login` to use, instead of the one called default.",
    )
    history: bool = Field(
        default=True,
        description="Keep what is typed in `metamorph chat` in `$XDG_STATE_HOME/metamorph/history`,"
        " or `~/.local/state/metamorph/history`.",
    )

    @property
    def over_tls(self) -> bool:
        """Returns whether the connection is encrypted."""
        return self.tls or self.ca is not None or self.cert is not None

    @property
    def sent_token(self) -> str | None:
        """Returns the token to send, if there is one."""
        return None if self.token is None else self.token.get_secret_value()
