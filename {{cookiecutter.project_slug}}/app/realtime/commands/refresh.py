"""A fresh token for a connection whose token runs out."""

from dataclasses import dataclass
from typing import Literal

import structlog
from pydantic import Field

from ..auth.jwt import JwtAuthenticator
from ..connections.connection import Connection
from ..errors import AuthenticatorDown, Forbidden, Unauthorized, Unavailable
from ..protocol import Command, Ok
from ..service import Service
from .router import CommandRouter

log = structlog.stdlib.get_logger(__name__)


class Refresh(Command):
    """Go on beyond the end of the present token."""

    type: Literal["refresh"]
    token: str = Field(repr=False)


@dataclass(slots=True, kw_only=True)
class RefreshOk(Ok):
    """The connection now lives until ``expires_at`` (Unix seconds)."""

    expires_at: float | None


def refresh_commands(authenticator: JwtAuthenticator) -> CommandRouter:
    """Return ``refresh``, which has tokens verified by this authenticator."""
    router = CommandRouter()

    @router.command(Refresh)
    async def refresh(service: Service, connection: Connection, command: Refresh) -> RefreshOk:
        """Take the new token, if it is valid and the same user's."""
        try:
            identity = await authenticator.verify(command.token)
        except Unauthorized as failure:
            if connection.limits.is_first_refusal(f"refresh: {failure.cause}"):
                log.info("token refused", cause=failure.cause)
            msg = "the token is not valid"
            raise Forbidden(msg) from failure
        except AuthenticatorDown as failure:
            msg = "the token cannot be checked just now"
            raise Unavailable(msg) from failure
        if identity.user != connection.user:
            msg = "the token is another user's"
            raise Forbidden(msg)
        connection.renew(identity)
        return RefreshOk(expires_at=identity.expires_at)

    return router
