"""The settings of the deployment."""

from pathlib import Path

from pydantic import BaseModel, Field, SecretStr

from metamorphd.settings.values import ExactBoolean, HeaderToken, HostAndPort, Port

PRODUCTION = "production"


class DeploymentSettings(BaseModel):
    """Where the server runs: its files, its environment, its addresses and ports."""

    database_path: Path = Field(
        default=Path("./data/metamorph.db"), description="SQLite database file. On Railway: /data/metamorph.db."
    )
    node_env: str = Field(
        default="development",
        description="With `production`, the server refuses to start with missing or unsafe settings.",
    )
    emblem_dev_mode: ExactBoolean = Field(
        default=False,
        description="`true` accepts calls without a token, on the vault named in x-vault-id. Loopback only.",
    )
    listen_address: str = Field(
        default="::", description="Address to listen on. `::` is all addresses, including IPv4."
    )
    port: Port = Field(default=3001, description="HTTP port, for /health and /metrics.")
    grpc_port: Port = Field(default=50051, description="gRPC port.")
    metrics_address: HostAndPort = Field(
        default=None, description="host:port for /metrics alone, for example [::]:9464. Default: LISTEN_ADDRESS, PORT."
    )
    metrics_token: HeaderToken = Field(
        default=None,
        description=(
            "Bearer token for /metrics, at least 32 characters. An operator's token is accepted too. In production one "
            "of them is required."
        ),
    )
    metrics_public: ExactBoolean = Field(
        default=False, description="`true` serves /metrics without a token in production too."
    )
    grpc_tls_cert: str | None = Field(
        default=None,
        description="TLS certificate chain of the gRPC port: PEM text or a file. A file that changes is read again.",
    )
    grpc_tls_key: SecretStr | None = Field(
        default=None, description="Private key of that certificate: PEM text or a file."
    )
    grpc_tls_client_ca: str | None = Field(
        default=None,
        description="Authorities for mTLS: clients must present a certificate from one of them. PEM text or a file.",
    )

    @property
    def production(self) -> bool:
        """Returns whether `NODE_ENV` is `production`, in any capitalization."""
        return self.node_env.strip().lower() == PRODUCTION

    @property
    def loopback(self) -> bool:
        """Returns whether only this machine can connect."""
        return self.listen_address in ("127.0.0.1", "::1", "localhost")

    @property
    def metrics_need_token(self) -> bool:
        """Returns whether `/metrics` is refused without a token."""
        return self.metrics_token is not None or (self.production and not self.metrics_public)

    @property
    def metrics_listener(self) -> tuple[str, int] | None:
        """Returns the address and the port of `/metrics` alone, or None if it has none."""
        if self.metrics_address is None:
            return None
        host, _, port = self.metrics_address.rpartition(":")
        return host.strip("[]"), int(port)
