"""``POST /login``: replaces the login of your site during development."""

import json
from base64 import b64encode
from typing import Any

from fastapi import Request, Response, status
from itsdangerous import TimestampSigner

from ..auth import AuthSettings
from .body import Login, described, parse
from .dependencies import ServiceDep, check_page, engine_router
from .errors import problems

router = engine_router(tags=["development"], responses=problems({403: "The origin is not allowed"}))

SECURE_PREFIXES = ("__host-", "__secure-")
"""Browsers ignore cookies with such names unless they are ``Secure`` (RFC 6265bis §4.1.3)."""


class EarlierSigner(TimestampSigner):
    """Signs with the time of ``age_s`` seconds ago."""

    age_s = 0

    def get_timestamp(self) -> int:
        """Return the Unix time to sign with."""
        return super().get_timestamp() - self.age_s


def sign_session(
    settings: AuthSettings, session: dict[str, Any], lifetime_s: int | None = None
) -> str:
    """Return the value of the cookie for a session, as the middleware makes it.

    With a lifetime, it is the cookie of a session that has only this time left.
    """
    signer = EarlierSigner(settings.session_secret.get_secret_value())
    if lifetime_s is not None:
        signer.age_s = max(0, settings.session_max_age_s - lifetime_s)
    return signer.sign(b64encode(json.dumps(session).encode())).decode()


def must_be_secure(cookie: str) -> bool:
    """Return whether a cookie of this name needs the attribute ``Secure``."""
    return cookie.lower().startswith(SECURE_PREFIXES)


@router.post("/login", status_code=status.HTTP_204_NO_CONTENT, openapi_extra=described(Login))
async def sign_in(request: Request, service: ServiceDep, response: Response) -> None:
    """Set the cookie of a session with this user."""
    check_page(request, service)
    body = await parse(Login, request)
    response.set_cookie(
        service.settings.session_cookie,
        sign_session(service.settings, {"user": body.user}, body.lifetime_s),
        max_age=service.settings.session_max_age_s,
        secure=must_be_secure(service.settings.session_cookie),
        samesite="lax",  # but not HttpOnly: the line of `make token` replaces this cookie
    )
