from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class Permission(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PERMISSION_UNSPECIFIED: _ClassVar[Permission]
    PERMISSION_AUTHENTICATED: _ClassVar[Permission]
    PERMISSION_READ: _ClassVar[Permission]
    PERMISSION_WRITE: _ClassVar[Permission]
    PERMISSION_DELETE: _ClassVar[Permission]
    PERMISSION_ADMIN: _ClassVar[Permission]
    PERMISSION_OPERATOR: _ClassVar[Permission]

class RateClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RATE_CLASS_UNSPECIFIED: _ClassVar[RateClass]
    RATE_CLASS_RESUME: _ClassVar[RateClass]
PERMISSION_UNSPECIFIED: Permission
PERMISSION_AUTHENTICATED: Permission
PERMISSION_READ: Permission
PERMISSION_WRITE: Permission
PERMISSION_DELETE: Permission
PERMISSION_ADMIN: Permission
PERMISSION_OPERATOR: Permission
RATE_CLASS_UNSPECIFIED: RateClass
RATE_CLASS_RESUME: RateClass
CLAIM_FIELD_NUMBER: _ClassVar[int]
claim: _descriptor.FieldDescriptor
REQUIRES_FIELD_NUMBER: _ClassVar[int]
requires: _descriptor.FieldDescriptor
RATE_CLASS_FIELD_NUMBER: _ClassVar[int]
rate_class: _descriptor.FieldDescriptor
