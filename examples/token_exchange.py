"""Exchanges a token of another issuer for one of Metamorph's: `uvicorn --app-dir examples token_exchange:app`.

Use it if that issuer's tokens cannot have Metamorph's claims; if they can, set EMBLEM_JWKS_URL, and there is nothing to
exchange. A browser posts its ID token to /token, and gets a cookie that lasts 15 minutes at most."""

import os
import time
from typing import Annotated

import jwt
from fastapi import FastAPI, Header, HTTPException, Response

ISSUER, AUDIENCE = os.environ["ISSUER"], os.environ["AUDIENCE"]
SECRET = os.environ["EMBLEM_JWT_SECRET"]
SECURE = os.environ.get("INSECURE_COOKIE") != "yes"  # For http://localhost only.
LIFETIME = 900
PERMISSIONS = ["read", "write"]  # Not delete, admin, or operator: nothing of another issuer's grants those.
keys = jwt.PyJWKClient(os.environ["JWKS_URL"], lifespan=300, timeout=5)
app = FastAPI()


def claims_of(token: str) -> dict[str, str]:
    """Returns the claims of a valid token. Raises 401 for any other, without saying what is wrong with it."""
    required = ["exp", "iss", "aud", "sub", "org_id"]
    try:
        key = keys.get_signing_key_from_jwt(token)
        return jwt.decode(
            token, key, algorithms=["RS256"], issuer=ISSUER, audience=AUDIENCE, leeway=30, options={"require": required}
        )
    except jwt.PyJWKClientConnectionError as error:
        raise HTTPException(503, "the issuer cannot be reached") from error
    except jwt.PyJWTError as error:
        raise HTTPException(401, "the token is not valid") from error


@app.post("/token", status_code=204)
def exchange(authorization: Annotated[str, Header(max_length=8192)], response: Response) -> None:
    theirs = claims_of(authorization.removeprefix("Bearer "))
    now = int(time.time())
    # Never longer than theirs, so that whoever is locked out there is locked out here within the lifetime.
    expiry = min(now + LIFETIME, int(theirs["exp"]))
    # With a prefix, so that nobody gets a vault of another origin by what an organisation calls itself.
    vault = f"org-{theirs['org_id']}"
    ours = {"vault_id": vault, "sub": theirs["sub"], "permissions": PERMISSIONS, "iat": now, "exp": expiry}
    token = jwt.encode(ours, SECRET, algorithm="HS256")
    # Scripts cannot read it, and no other site's page can send it.
    response.set_cookie("token", token, max_age=expiry - now, secure=SECURE, httponly=True, samesite="strict")
