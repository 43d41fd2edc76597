"""Tokens for tests."""

import base64
import time
from collections.abc import Sequence
from typing import Any

import jwt
from metamorphd.edge.methods import PERMISSIONS

SECRET = "a-secret-that-signs-the-tests-tokens"
ALL = tuple(sorted(PERMISSIONS))


def mint(
    vault: str = "acme", user: str = "alice", permissions: Sequence[str] = ALL, *, secret: str = SECRET, **claims: Any
) -> str:
    """Returns a token with these `claims` added. A claim of None is removed."""
    body = {"vault_id": vault, "sub": user, "permissions": list(permissions), "exp": int(time.time()) + 3600, **claims}
    return jwt.encode({name: value for name, value in body.items() if value is not None}, secret, algorithm="HS256")


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
