"""Backups, and the copies of them in a bucket."""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING

from metamorphd.audit.recording import Recorder
from metamorphd.audit.stamping import Stamping
from metamorphd.backups.backups import Backups
from metamorphd.backups.ledger import Ledger
from metamorphd.clock import Clock
from metamorphd.models.caller import SERVER_LOG, server_scope
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.operations import Operations
from metamorphd.settings.server import Settings
from metamorphd.store.database import Database

if TYPE_CHECKING:
    from metamorphd.backups.copies import Copies


def make_ledger(settings: Settings) -> Ledger:
    """Returns the erasure ledger, which is beside the database and with its backups."""
    return Ledger(database=settings.database_path, backups=settings.backup_path)


def make_backups(
    settings: Settings,
    *,
    database: Database,
    operations: Operations,
    ledger: Ledger,
    clock: Clock,
    recorder: Recorder,
    stamping: Stamping,
) -> Backups:
    """Returns the backups of a database. Raises StartupRefused."""

    async def record(name: str, verb: ChangeVerb) -> None:
        scope = server_scope(SERVER_LOG)
        await recorder.record(scope, resource=ChangedResource.BACKUP, resource_id=name, verb=verb)

    return Backups(
        database=database,
        operations=operations,
        clock=clock,
        path=settings.backup_path,
        interval_hours=settings.backup_interval_hours,
        retention_days=settings.backup_retention_days,
        server_version=version("metamorphd"),
        record=record,
        stamp=stamping.stamp,
        copies=_copies(settings, ledger, clock),
    )


def _copies(settings: Settings, ledger: Ledger, clock: Clock) -> "Copies | None":
    if settings.backup_s3_url is None:
        return None
    # Imported only when used: a server without copies does not need its libraries.
    module = importlib.import_module("metamorphd.backups.copies")
    copies: Copies = module.copies_in(
        settings.backup_s3_url,
        credentials=settings.s3_credentials(),
        keys=settings.encryption_keys,
        compressed=settings.backup_compression == "zstd",
        directory=settings.backup_path,
        ledger=ledger.files["database"],
        clock=clock,
        retention_days=settings.backup_retention_days,
    )
    return copies
