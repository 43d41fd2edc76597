"""AdminService: keys."""

from metamorph.admin.v1 import admin_service_pb2 as pb

from metamorphd.models.caller import Scope
from metamorphd.secrets.rotation import Rotation
from metamorphd.services.convert.key_rotation import key_rotation_to_proto


class AdminKeys:
    """The key methods of AdminService."""

    _rotation: Rotation

    async def RotateDataKeys(self, request: pb.RotateDataKeysRequest, scope: Scope) -> pb.RotateDataKeysResponse:
        return pb.RotateDataKeysResponse(rotation=key_rotation_to_proto(await self._rotation.rotate(scope)))

    async def GetKeyRotation(self, request: pb.GetKeyRotationRequest, scope: Scope) -> pb.GetKeyRotationResponse:
        return pb.GetKeyRotationResponse(rotation=key_rotation_to_proto(await self._rotation.state(scope)))
