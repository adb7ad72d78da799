"""A new token for a connection whose token expires."""

from dataclasses import dataclass
from typing import Literal

import structlog
from pydantic import Field

from ..auth.identity import authenticating, check_identity
from ..connections.connection import Connection
from ..errors import Forbidden, Unauthorized, Unavailable
from ..protocol import Command, Ok
from ..service import Service
from .router import CommandRouter

log = structlog.stdlib.get_logger(__name__)

MAX_TOKEN_CHARACTERS = 8_192
"""The same limit as for a header of the handshake."""

router = CommandRouter()


class Refresh(Command):
    """Continue beyond the expiry of the present token."""

    type: Literal["refresh"]
    token: str = Field(repr=False, max_length=MAX_TOKEN_CHARACTERS)


@dataclass(slots=True, kw_only=True)
class RefreshOk(Ok):
    """The connection now lives until ``expires_at`` (Unix seconds)."""

    expires_at: float | None


@router.command(Refresh)
async def refresh(service: Service, connection: Connection, command: Refresh) -> RefreshOk:
    """Take the new token, if it is valid and the same user's."""
    try:
        with authenticating():
            identity = check_identity(await service.authenticator.verify(command.token))
            if identity.user == connection.user:
                await service.check_ban(identity.user)
    except (Unauthorized, Unavailable) as failure:
        if connection.limits.is_first_refusal(f"refresh: {failure.cause}"):
            log.info("token refused", cause=failure.cause)
        if isinstance(failure, Unavailable):
            raise Unavailable("the token cannot be checked now") from failure
        raise Forbidden("the token is not valid") from failure
    if identity.user != connection.user:
        raise Forbidden("the token is another user's")
    connection.renew(identity)
    return RefreshOk(expires_at=identity.expires_at)
