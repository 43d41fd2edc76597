"""Calls about secrets."""

from typing import Any

from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorph_client.vault.v1.secret_pb2 import Secret, SecretVersion

from tests.support.caller import Caller


def put(caller: Caller, name: str = "key", value: bytes = b"value", **fields: Any) -> Any:
    """Puts a version."""
    return caller.vault.PutSecret(pb.PutSecretRequest(name=name, value=value, **fields), metadata=caller.metadata)


def get(caller: Caller, name: str = "key", version: int = 0) -> Any:
    """Gets a version, by default the newest."""
    return caller.vault.GetSecret(pb.GetSecretRequest(name=name, version=version), metadata=caller.metadata)


def destroy(caller: Caller, version: int, name: str = "key") -> Any:
    """Destroys a version."""
    request = pb.DestroySecretVersionRequest(name=name, version=version)
    return caller.vault.DestroySecretVersion(request, metadata=caller.metadata)


def delete(caller: Caller, name: str = "key", **fields: Any) -> Any:
    """Deletes a secret."""
    return caller.vault.DeleteSecret(pb.DeleteSecretRequest(name=name, **fields), metadata=caller.metadata)


async def value(caller: Caller, name: str = "key", version: int = 0) -> bytes:
    """Returns a value."""
    return bytes((await get(caller, name, version)).secret_version.value)


async def listed(caller: Caller, **query: Any) -> list[Secret]:
    """Returns a page of secrets."""
    request = pb.ListSecretsRequest(**query)
    return list((await caller.vault.ListSecrets(request, metadata=caller.metadata)).secrets)


async def versions(caller: Caller, name: str = "key", **query: Any) -> list[SecretVersion]:
    """Returns a page of a secret's versions."""
    request = pb.ListSecretVersionsRequest(name=name, **query)
    return list((await caller.vault.ListSecretVersions(request, metadata=caller.metadata)).secret_versions)
