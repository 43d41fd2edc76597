"""AdminService: keys."""

from metamorph_client.admin.v1 import admin_service_pb2 as pb

from metamorphd.audit.recording import Recorder
from metamorphd.models.caller import Scope
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.secrets.rotation import Rotation
from metamorphd.services.convert.key_rotation import key_rotation_to_proto


class AdminKeys:
    """The key methods of AdminService."""

    _rotation: Rotation
    _recorder: Recorder

    async def RotateDataKeys(self, request: pb.RotateDataKeysRequest, scope: Scope) -> pb.RotateDataKeysResponse:
        self._rotation.require()
        await self._recorder.record(
            scope.of_server(), resource=ChangedResource.DATA_KEYS, resource_id="", verb=ChangeVerb.UPDATED
        )
        return pb.RotateDataKeysResponse(rotation=key_rotation_to_proto(await self._rotation.rotate(scope)))

    async def GetKeyRotation(self, request: pb.GetKeyRotationRequest, scope: Scope) -> pb.GetKeyRotationResponse:
        return pb.GetKeyRotationResponse(rotation=key_rotation_to_proto(await self._rotation.state(scope)))
