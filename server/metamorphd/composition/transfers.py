"""Exports and imports."""

from metamorphd.clock import Clock
from metamorphd.keys.vault_keys import VaultKeys
from metamorphd.operations import Operations
from metamorphd.secrets.secrets import Secrets
from metamorphd.settings.server import Settings
from metamorphd.store.database import Database
from metamorphd.transfers.exports import Exports
from metamorphd.transfers.imports import Imports
from metamorphd.vault_states import VaultStates


def make_secrets(settings: Settings, *, database: Database, keys: VaultKeys, clock: Clock) -> Secrets:
    """Returns the secrets of vaults."""
    return Secrets(database=database, keys=keys, clock=clock, storage_limit=settings.vault_storage_bytes)


def make_exports(
    settings: Settings,
    *,
    database: Database,
    operations: Operations,
    states: VaultStates,
    keys: VaultKeys,
    clock: Clock,
) -> Exports:
    """Returns the exports of vaults."""
    return Exports(
        database=database,
        operations=operations,
        states=states,
        secrets=make_secrets(settings, database=database, keys=keys, clock=clock),
        clock=clock,
        directory=settings.export_path,
        retention_hours=settings.export_retention_hours,
    )


def make_imports(settings: Settings, *, database: Database, operations: Operations, clock: Clock) -> Imports:
    """Returns the imports into vaults."""
    return Imports(
        database=database,
        operations=operations,
        clock=clock,
        directory=settings.import_path,
        storage_limit=settings.vault_storage_bytes,
    )
