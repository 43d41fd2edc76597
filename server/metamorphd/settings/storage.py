"""The settings of storage."""

from typing import Literal

from pydantic import BaseModel, Field

from metamorphd.settings.values import Hours


class StorageSettings(BaseModel):
    """How data is stored, and how much of it."""

    sqlite_synchronous: Literal["FULL", "NORMAL"] = Field(
        default="FULL", description="NORMAL is faster, but a power cut may lose acknowledged writes."
    )
    vault_storage_bytes: int = Field(
        default=0,
        ge=0,
        description="Bytes that a vault may store, unless the operator sets another limit. 0: no limit.",
    )
    storage_floor_bytes: int | None = Field(
        default=None,
        ge=0,
        description=(
            "Free space below which calls that store more are refused. 0: none, and no ballast. Default: 256 MiB, or a "
            "sixteenth of the volume if that is less."
        ),
    )
    export_retention_hours: Hours = Field(
        default=1,
        gt=0,
        description="Hours during which the file of a vault's export is kept, so that a download can go on.",
    )
