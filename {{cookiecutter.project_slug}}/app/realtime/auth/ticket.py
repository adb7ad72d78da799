"""Authentication by ticket: your backend requests one, and a browser uses it within seconds.

A ticket is valid for one connection, so it may be in a URL. Every browser can put it there.
"""

import secrets
from dataclasses import dataclass
from time import time
from typing import ClassVar

from fastapi.security import APIKeyQuery
from pydantic import Field
from starlette.requests import HTTPConnection

from ..errors import Unauthorized
from ..expiring import ExpiringMap
from ..fields import YEAR_S, Key, SettingsPart
from .identity import Identity

CREDENTIALS = APIKeyQuery(
    name="ticket", description="A ticket from `POST /tickets`, for one connection", auto_error=False
)
"""How OpenAPI and AsyncAPI describe the credentials."""


class AuthSettings(SettingsPart):
    """The key of your backend, which alone can request tickets, and their lifetime."""

    backend_key: Key
    ticket_lifetime_s: int = Field(default=30, ge=1, le=YEAR_S)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket and the time at which it expires (Unix seconds)."""

    ticket: str
    expires_at: float


class Authenticator:
    """Issues tickets and accepts each once. ``tickets`` has the user of each unused ticket."""

    needs_origin: ClassVar[bool] = False
    """Whether browsers send the credentials by themselves: then an ``Origin`` is required."""

    def __init__(self, settings: AuthSettings) -> None:
        self._lifetime_s = settings.ticket_lifetime_s
        self.tickets = ExpiringMap()

    async def issue(self, user: str) -> Ticket:
        """Return a new ticket for the user.

        Raises:
            Unavailable: the ticket cannot be stored now.
        """
        ticket = secrets.token_urlsafe(32)
        expires_at = time() + self._lifetime_s
        await self.tickets.put(ticket, user, self._lifetime_s)
        return Ticket(ticket, expires_at)

    async def authenticate(self, handshake: HTTPConnection) -> Identity:
        """Return the identity that the handshake's ticket was issued for.

        Raises:
            Unauthorized: there is no ticket, or it was used before or has expired.
            Unavailable: the ticket cannot be looked up now.
        """
        ticket = handshake.query_params.get("ticket", "")
        if not ticket:
            raise Unauthorized("no ticket")
        user = await self.tickets.pop(ticket)
        if user is None:
            raise Unauthorized("unknown, used or expired ticket")
        return Identity(user)
