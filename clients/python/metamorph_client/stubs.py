"""The generated stubs of a client, each made when it is first asked for: a client for one request uses few of them."""

from functools import cached_property
from typing import TYPE_CHECKING

import grpc

from metamorph_client.admin.v1.admin_service_pb2_grpc import AdminServiceStub
from metamorph_client.chat.v1.chat_service_pb2_grpc import ChatServiceStub
from metamorph_client.vault.v1.vault_service_pb2_grpc import VaultServiceStub

if TYPE_CHECKING:
    from metamorph_client.admin.v1.admin_service_pb2_grpc import AdminServiceAsyncStub
    from metamorph_client.chat.v1.chat_service_pb2_grpc import ChatServiceAsyncStub
    from metamorph_client.vault.v1.vault_service_pb2_grpc import VaultServiceAsyncStub


class Stubs:
    """The stubs of a channel."""

    channel: grpc.aio.Channel

    @cached_property
    def chat(self) -> "ChatServiceAsyncStub":
        """ChatService: sessions, messages, turns, attachments."""
        return ChatServiceStub(self.channel)

    @cached_property
    def vault(self) -> "VaultServiceAsyncStub":
        """VaultService: the vault, its usage, memories, secrets."""
        return VaultServiceStub(self.channel)

    @cached_property
    def admin(self) -> "AdminServiceAsyncStub":
        """AdminService, for operators."""
        return AdminServiceStub(self.channel)


class SyncStubs:
    """The stubs of a channel without asyncio."""

    channel: grpc.Channel

    @cached_property
    def chat(self) -> ChatServiceStub:
        """ChatService: sessions, messages, turns, attachments."""
        return ChatServiceStub(self.channel)

    @cached_property
    def vault(self) -> VaultServiceStub:
        """VaultService: the vault, its usage, memories, secrets."""
        return VaultServiceStub(self.channel)

    @cached_property
    def admin(self) -> AdminServiceStub:
        """AdminService, for operators."""
        return AdminServiceStub(self.channel)


def without_stubs(client: Stubs | SyncStubs) -> None:
    """Has the stubs made again, because the client has another channel."""
    for name in ("chat", "vault", "admin"):
        vars(client).pop(name, None)
