"""The settings of the server."""

from pathlib import Path
from typing import Any

from pydantic import model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from metamorphd.settings import environment
from metamorphd.settings.backups import BackupSettings
from metamorphd.settings.credentials import CredentialSettings
from metamorphd.settings.deployment import DeploymentSettings
from metamorphd.settings.limits import LimitSettings
from metamorphd.settings.observation import ObservationSettings
from metamorphd.settings.replication import ReplicationSettings
from metamorphd.settings.replies import ReplySettings
from metamorphd.settings.storage import StorageSettings
from metamorphd.settings.values import as_text


# Fields have the order of these from the last to the first, which is that of docs/settings.md.
class Settings(
    ObservationSettings,
    StorageSettings,
    ReplicationSettings,
    BackupSettings,
    LimitSettings,
    ReplySettings,
    DeploymentSettings,
    CredentialSettings,
    BaseSettings,
):
    """The server's settings. The environment variable of a field is its name in capitals."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Treats an empty variable as not set, except EMBLEM_API_URL, for which empty means none, not the default."""
        given = {name: value for name, value in values.items() if value != ""}
        return given | ({"emblem_api_url": None} if values.get("emblem_api_url") == "" else {})

    @property
    def backup_path(self) -> Path:
        """Returns the directory of backups."""
        return self.backup_dir or self.database_path.parent / "backups"

    @property
    def export_path(self) -> Path:
        """Returns the directory of exports."""
        return self.database_path.parent / f"{self.database_path.name}-exports"

    @property
    def import_path(self) -> Path:
        """Returns the directory of what is being imported."""
        return self.database_path.parent / f"{self.database_path.name}-imports"

    @property
    def replica_environment(self) -> dict[str, str]:
        """Returns the environment in which Litestream reads the replica."""
        secret = self.aws_secret_access_key
        given = {
            "AWS_ACCESS_KEY_ID": self.aws_access_key_id,
            "AWS_SECRET_ACCESS_KEY": None if secret is None else secret.get_secret_value(),
        }
        return {**environment.variables(), **{name: value for name, value in given.items() if value is not None}}

    @property
    def contained(self) -> bool:
        """Returns whether the environment is that of a container on Railway or Kubernetes."""
        return environment.is_contained()

    @property
    def railway_volume(self) -> str:
        """Returns where Railway mounts the service's volume, or nothing if it does not say so."""
        return environment.railway_volume()

    def shown(self) -> dict[str, str]:
        """Returns every setting by the name of its environment variable. A secret is shown as `set`."""
        return {name.upper(): as_text(getattr(self, name)) for name in type(self).model_fields}
