"""``POST /tokens``: issues tokens during development, in place of your backend."""

from dataclasses import dataclass
from time import time
from typing import Any

import jwt
from fastapi import Request, Response, status

from ..auth import AuthSettings
from ..auth.jwt import SYMMETRIC
from ..errors import Forbidden
from .body import Login, described, parse
from .dependencies import ServiceDep, check_page, engine_router
from .errors import problems

ONE_HOUR_S = 3_600

router = engine_router(
    tags=["development"],
    responses=problems({403: "`JWT_SECRET` is not set, or the origin is not allowed"}),
)


@dataclass(frozen=True, slots=True)
class Token:
    """A JSON Web Token."""

    token: str


def sign_token(
    settings: AuthSettings, claims: dict[str, Any], lifetime_s: int | None = None
) -> str:
    """Return a token with these claims, which is valid for an hour, or for ``lifetime_s``.

    Raises:
        Forbidden: there is no secret to sign with.
    """
    if settings.jwt_secret is None:
        raise Forbidden("JWT_SECRET is not set, so only your issuer can sign tokens")
    leeway_s = settings.jwt_leeway_s  # how long a token is accepted after ``exp``
    claims = {
        "exp": time() + (ONE_HOUR_S if lifetime_s is None else lifetime_s) - leeway_s,
        "aud": settings.jwt_audience,
        "iss": settings.jwt_issuer,
    } | claims
    present = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(present, settings.jwt_secret.get_secret_value(), SYMMETRIC)


@router.post("/tokens", status_code=status.HTTP_201_CREATED, openapi_extra=described(Login))
async def issue_token(request: Request, service: ServiceDep, response: Response) -> Token:
    """Return a token of any user."""
    check_page(request, service)
    response.headers["Cache-Control"] = "no-store"
    body = await parse(Login, request)
    return Token(sign_token(service.settings, {"sub": body.user}, body.lifetime_s))
