"""AdminService: backups."""

from collections.abc import AsyncIterator

from metamorph_client.admin.v1 import admin_service_pb2 as pb

from metamorphd.audit.recording import Recorder
from metamorphd.backups.backups import Backups
from metamorphd.models.caller import Scope
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.services.convert.backup import backup_to_proto
from metamorphd.services.paging import clamp_page_size, decode_page_token, encode_page_token


class AdminBackups:
    """The backup methods of AdminService."""

    _backups: Backups
    _recorder: Recorder

    async def CreateBackup(self, request: pb.CreateBackupRequest, scope: Scope) -> pb.CreateBackupResponse:
        await self._record(scope, "", ChangeVerb.CREATED)
        return pb.CreateBackupResponse(backup=backup_to_proto(await self._backups.create_backup(scope)))

    async def GetBackup(self, request: pb.GetBackupRequest, scope: Scope) -> pb.GetBackupResponse:
        return pb.GetBackupResponse(backup=backup_to_proto(await self._backups.get_backup(request.name)))

    async def ListBackups(self, request: pb.ListBackupsRequest, scope: Scope) -> pb.ListBackupsResponse:
        after = decode_page_token(request, "", request.page_token, (str,))
        backups = [
            backup for backup in await self._backups.list_backups() if after is None or backup.name < str(after[0])
        ]
        page = backups[: clamp_page_size(request.page_size)]
        more = len(backups) > len(page)
        return pb.ListBackupsResponse(
            backups=map(backup_to_proto, page),
            next_page_token=encode_page_token(request, "", (page[-1].name,) if more else None),
        )

    async def VerifyBackup(self, request: pb.VerifyBackupRequest, scope: Scope) -> pb.VerifyBackupResponse:
        return pb.VerifyBackupResponse(backup=backup_to_proto(await self._backups.verify_backup(request.name, scope)))

    async def DownloadBackup(
        self, request: pb.DownloadBackupRequest, scope: Scope
    ) -> AsyncIterator[pb.DownloadBackupResponse]:
        await self._record(scope, request.name, ChangeVerb.READ)
        async for data in self._backups.read_backup(request.name, offset=request.offset):
            yield pb.DownloadBackupResponse(data=data)

    async def DeleteBackup(self, request: pb.DeleteBackupRequest, scope: Scope) -> pb.DeleteBackupResponse:
        await self._record(scope, request.name, ChangeVerb.DELETED)
        await self._backups.delete_backup(request.name)
        return pb.DeleteBackupResponse()

    async def PruneBackups(self, request: pb.PruneBackupsRequest, scope: Scope) -> pb.PruneBackupsResponse:
        if not request.validate_only:
            await self._record(scope, "", ChangeVerb.DELETED)
        return pb.PruneBackupsResponse(names=await self._backups.prune_backups(validate_only=request.validate_only))

    async def _record(self, scope: Scope, name: str, verb: ChangeVerb) -> None:
        await self._recorder.record(scope.of_server(), resource=ChangedResource.BACKUP, resource_id=name, verb=verb)
