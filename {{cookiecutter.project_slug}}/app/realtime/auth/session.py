"""Authentication by the session cookie that Starlette's SessionMiddleware of the same site writes.

Browsers send cookies even with requests that scripts of other sites make. So the allow-list of
origins is needed, and a handshake without an Origin is refused (OWASP WebSocket Security Cheat
Sheet, cross-site hijacking).
"""

import json
from base64 import b64decode
from time import time
from typing import Any, ClassVar

from fastapi.security import APIKeyCookie
from itsdangerous import BadSignature, TimestampSigner
from pydantic import Field
from starlette.requests import HTTPConnection

from ..errors import Unauthorized
from ..fields import YEAR_S, CommaSeparated, Secret, SettingsPart
from .identity import Identity

LEEWAY_S = 10
"""How far the clock of the site may be ahead."""

FOURTEEN_DAYS_S = 14 * 24 * 60 * 60


CREDENTIALS = APIKeyCookie(
    name="session", description="The signed cookie of your site", auto_error=False
)
"""How OpenAPI and AsyncAPI describe the credentials."""


class AuthSettings(SettingsPart):
    """The values of the SessionMiddleware, and its former secrets."""

    session_secret: Secret
    session_secret_fallbacks: CommaSeparated[Secret] = ()
    session_cookie: str = Field(default="session", pattern=r"^[A-Za-z0-9_!#$%&'*+.^`|~-]+$")
    session_max_age_s: int = Field(default=FOURTEEN_DAYS_S, ge=1, le=10 * YEAR_S)


class Authenticator:
    """Reads ``user`` from the signed cookie."""

    needs_origin: ClassVar[bool] = True
    """Whether browsers send the credentials by themselves: then an ``Origin`` is required."""

    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings
        # From the oldest to the newest; any of them may have signed a cookie.
        secrets = (*settings.session_secret_fallbacks, settings.session_secret)
        self._signer = TimestampSigner([secret.get_secret_value() for secret in secrets])

    async def authenticate(self, handshake: HTTPConnection) -> Identity:
        """Return the identity in the handshake's session.

        Raises:
            Unauthorized: the session is missing, forged, too old, or without a user.
        """
        cookie = handshake.cookies.get(self._settings.session_cookie, "")
        if not cookie:
            raise Unauthorized("no cookie")
        max_age_s = self._settings.session_max_age_s
        try:
            payload, signed_at = self._signer.unsign(cookie, return_timestamp=True)
            if not -LEEWAY_S <= time() - signed_at.timestamp() <= max_age_s:
                raise Unauthorized("the session is too old, or not valid yet")
            session: dict[str, Any] = json.loads(b64decode(payload))
            expires_at = signed_at.timestamp() + max_age_s
            return Identity(session["user"], expires_at=expires_at, claims=session)
        except BadSignature as failure:
            raise Unauthorized("bad signature") from failure
        except (KeyError, TypeError) as failure:
            raise Unauthorized("the session names no user") from failure
        except ValueError as failure:
            raise Unauthorized from failure
