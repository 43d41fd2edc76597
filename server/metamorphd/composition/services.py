"""The servicers of the proto services."""

from google.protobuf.descriptor import ServiceDescriptor

from metamorphd.audit.verification import Verification
from metamorphd.auth.revoked_tokens import RevokedTokens
from metamorphd.catalog import Catalog
from metamorphd.chat.engine import TurnEngine
from metamorphd.clock import Clock
from metamorphd.composition.role import Role
from metamorphd.edge.methods import SERVICES
from metamorphd.keys.audit import make_chain
from metamorphd.keys.vault_keys import VaultKeys
from metamorphd.leaving.vaults import Leaving
from metamorphd.secrets.secrets import Secrets
from metamorphd.services.admin.service import AdminService, Build
from metamorphd.services.chat.service import ChatService
from metamorphd.services.chat.uploads import Uploads
from metamorphd.services.vault import VaultService
from metamorphd.settings.server import Settings
from metamorphd.vault_states import VaultStates
from metamorphd.watching import Watching


def make_servicers(
    settings: Settings,
    *,
    role: Role,
    engine: TurnEngine,
    catalog: Catalog,
    revoked_tokens: RevokedTokens,
    keys: VaultKeys,
    watching: Watching,
    states: VaultStates,
    clock: Clock,
    build: Build,
) -> dict[ServiceDescriptor, object]:
    """Returns the servicer of each service."""
    database = role.database
    chat = ChatService(
        database=database,
        engine=engine,
        clock=clock,
        uploads=Uploads(limit=settings.max_attachment_bytes),
        catalog=catalog,
        default_model=settings.default_model,
        max_content_bytes=settings.max_content_bytes,
        storage_limit=settings.vault_storage_bytes,
    )
    secrets = Secrets(database=database, keys=keys, clock=clock, storage_limit=settings.vault_storage_bytes)
    leaving = Leaving(
        states=states,
        engine=engine,
        backups=role.backups,
        exports=role.exports,
        imports=role.imports,
        operations=role.operations,
        ledger=role.ledger,
        database=database,
        clock=clock,
    )
    vault = VaultService(
        database=database,
        watching=watching,
        secrets=secrets,
        operations=role.operations,
        memories=role.memories,
        most_memories=settings.max_vault_memories,
        exports=role.exports,
        leaving=leaving,
        imports=role.imports,
        clock=clock,
        storage_limit=settings.vault_storage_bytes,
    )
    admin = AdminService(
        database=database,
        engine=engine,
        revoked_tokens=revoked_tokens,
        backups=role.backups,
        rotation=role.rotation,
        operations=role.operations,
        recorder=role.recorder,
        verification=Verification(database=database, chain=make_chain(settings.audit_key_texts)),
        states=states,
        clock=clock,
        build=build,
        storage_limit=settings.vault_storage_bytes,
    )
    return dict(zip(SERVICES, (chat, vault, admin), strict=True))
