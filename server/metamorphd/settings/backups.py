"""The settings of backups."""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, SecretStr

from metamorphd.errors import StartupRefused
from metamorphd.settings.values import Days, Hours


class BackupSettings(BaseModel):
    """Backups, and the bucket of their copies."""

    backup_dir: Path | None = Field(
        default=None, description="Directory of backups. Default: `backups` beside the database."
    )
    backup_interval_hours: Hours = Field(
        default=24, ge=0, description="Hours between scheduled backups. 0: none, and no daily verification."
    )
    backup_retention_days: Days = Field(
        default=7, gt=0, description="Days that backups are kept. The newest good one of a database is always kept."
    )
    backup_s3_url: str | None = Field(
        default=None,
        description=(
            "Where copies of backups are kept off the machine, s3://bucket/prefix, of this server alone. Default: none."
        ),
    )
    backup_encryption_key: SecretStr | None = Field(
        default=None,
        description=(
            "age recipients (age1…), for which copies are encrypted, or identities (AGE-SECRET-KEY-1…), with which "
            "they are also decrypted; separated by commas. Default: copies are not encrypted."
        ),
    )
    backup_compression: Literal["none", "zstd"] = Field(
        default="none", description="How copies are compressed: none or zstd. Backups on the volume are not."
    )
    aws_access_key_id: str | None = Field(default=None, description="Access key of that bucket.")
    aws_secret_access_key: SecretStr | None = Field(default=None, description="Its secret.")
    aws_region: str = Field(default="us-east-1", description="Region of that bucket.")
    aws_endpoint_url: str | None = Field(
        default=None,
        description="URL of a storage service with S3's protocol, https://…, if it is not AWS's own.",
    )

    def s3_credentials(self) -> dict[str, Any]:
        """Returns the credentials of the bucket. Raises StartupRefused if they are missing or unsafe."""
        endpoint, secret = self.aws_endpoint_url, self.aws_secret_access_key
        if self.aws_access_key_id is None or secret is None:
            raise StartupRefused("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set; a bucket needs both")
        if endpoint is not None and not re.match(r"https://|http://(127\.0\.0\.1|localhost|\[::1\])[:/]", endpoint):
            raise StartupRefused("AWS_ENDPOINT_URL must begin with https://")
        return {
            "access_key_id": self.aws_access_key_id,
            "secret_access_key": secret.get_secret_value(),
            "region": self.aws_region,
            "endpoint": endpoint,
        }

    @property
    def encryption_keys(self) -> str:
        """Returns the keys of copies, or nothing."""
        return "" if self.backup_encryption_key is None else self.backup_encryption_key.get_secret_value()
