"""Converts secrets to protobuf and back."""

from metamorph_client.vault.v1 import secret_pb2, vault_service_pb2

from metamorphd.models.secret import NewVersion, Secret, SecretVersion
from metamorphd.services.convert.time import microseconds, timestamp


def secret_to_proto(secret: Secret) -> secret_pb2.Secret:
    """Returns a secret."""
    return secret_pb2.Secret(
        name=secret.name,
        version=secret.version,
        labels=secret.labels,
        expire_time=timestamp(secret.expire_time),
        creator=secret.creator,
        create_time=timestamp(secret.create_time),
        update_time=timestamp(secret.update_time),
    )


def secret_version_to_proto(version: SecretVersion, *, value: bytes = b"") -> secret_pb2.SecretVersion:
    """Returns a version of a secret, with its value if that is given."""
    return secret_pb2.SecretVersion(
        name=version.name,
        version=version.version,
        value=value,
        creator=version.creator,
        create_time=timestamp(version.create_time),
        destroy_time=timestamp(version.destroy_time),
    )


def new_version_from_proto(request: vault_service_pb2.PutSecretRequest) -> NewVersion:
    """Returns the version that a request puts, without its value."""
    return NewVersion(
        name=request.name,
        expected_version=request.expected_version if request.HasField("expected_version") else None,
        labels=dict(request.labels),
        expire_time=microseconds(request.expire_time) if request.HasField("expire_time") else None,
    )
