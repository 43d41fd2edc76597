"""VaultService: secrets."""

from metamorph_client.vault.v1 import vault_service_pb2 as pb

from metamorphd.clock import Clock
from metamorphd.models.caller import Scope
from metamorphd.secrets.secrets import Secrets
from metamorphd.services.convert.secret import new_version_from_proto, secret_to_proto, secret_version_to_proto
from metamorphd.services.idempotency import idempotency_key
from metamorphd.services.paging import clamp_page_size, convert_items, decode_page_token, encode_page_token
from metamorphd.store.changes import revised
from metamorphd.store.database import Database
from metamorphd.store.secrets import (
    END_OF_VERSIONS,
    delete_secret,
    destroy_secret_version,
    list_secret_versions,
    list_secrets,
)


class VaultSecrets:
    """The methods of VaultService for secrets."""

    _database: Database
    _clock: Clock
    _secrets: Secrets

    async def PutSecret(self, request: pb.PutSecretRequest, scope: Scope) -> pb.PutSecretResponse:
        new = new_version_from_proto(request)
        key = idempotency_key("PutSecret", request)
        version, revision = await self._secrets.put(scope, new, value=request.value, request=key)
        return pb.PutSecretResponse(secret_version=secret_version_to_proto(version), revision=revision)

    async def GetSecret(self, request: pb.GetSecretRequest, scope: Scope) -> pb.GetSecretResponse:
        version, value, revision = await self._secrets.get(scope, name=request.name, version=request.version)
        return pb.GetSecretResponse(secret_version=secret_version_to_proto(version, value=value), revision=revision)

    async def ListSecrets(self, request: pb.ListSecretsRequest, scope: Scope) -> pb.ListSecretsResponse:
        self._secrets.require()
        after = decode_page_token(request, scope.vault_id, request.page_token, (str,)) or ("",)
        page = await self._database.read(
            list_secrets,
            scope,
            after=str(after[0]),
            # Not limited by size: a secret has at most 3 KB, so 1000 of them stay below 3 MiB.
            page_size=clamp_page_size(request.page_size),
            now=self._clock.now(),
        )
        return pb.ListSecretsResponse(
            secrets=await convert_items(secret_to_proto, page.items),
            next_page_token=encode_page_token(request, scope.vault_id, page.next_after),
        )

    async def ListSecretVersions(
        self, request: pb.ListSecretVersionsRequest, scope: Scope
    ) -> pb.ListSecretVersionsResponse:
        self._secrets.require()
        before = decode_page_token(request, scope.vault_id, request.page_token, (int,)) or (END_OF_VERSIONS,)
        page = await self._database.read(
            list_secret_versions,
            scope,
            name=request.name,
            before=int(before[0]),
            page_size=clamp_page_size(request.page_size),
            now=self._clock.now(),
        )
        return pb.ListSecretVersionsResponse(
            secret_versions=map(secret_version_to_proto, page.items),
            next_page_token=encode_page_token(request, scope.vault_id, page.next_after),
        )

    async def DestroySecretVersion(
        self, request: pb.DestroySecretVersionRequest, scope: Scope
    ) -> pb.DestroySecretVersionResponse:
        self._secrets.require()
        version, revision = await self._database.write(
            revised(destroy_secret_version), scope, name=request.name, version=request.version, now=self._clock.now()
        )
        return pb.DestroySecretVersionResponse(secret_version=secret_version_to_proto(version), revision=revision)

    async def DeleteSecret(self, request: pb.DeleteSecretRequest, scope: Scope) -> pb.DeleteSecretResponse:
        self._secrets.require()
        _, revision = await self._database.write(
            revised(delete_secret),
            scope,
            name=request.name,
            expected_version=request.expected_version if request.HasField("expected_version") else None,
            now=self._clock.now(),
        )
        return pb.DeleteSecretResponse(revision=revision)
