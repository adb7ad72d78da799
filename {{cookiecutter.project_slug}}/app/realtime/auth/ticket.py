"""Authentication by ticket: the team's backend asks for one, a browser spends it within seconds.

A ticket works once, so it may stand in a URL, the one place where every browser can put it.
"""

import secrets
from dataclasses import dataclass
from time import time

from fastapi.security import APIKeyQuery
from pydantic import PositiveInt
from starlette.requests import HTTPConnection

from ..errors import Unauthorized
from ..expiring import ExpiringMap
from ..fields import Secret, SettingsPart
from .identity import Authenticator, Identity

CREDENTIALS = APIKeyQuery(name="ticket", auto_error=False)
"""How OpenAPI describes the credentials."""

MAX_TICKETS = 1_000_000
"""Unspent tickets that a single node remembers; at the limit, the oldest are forgotten."""


class AuthSettings(SettingsPart):
    """Tickets are sold to the team's backend only, so its key must be set."""

    backend_key: Secret
    ticket_lifetime_s: PositiveInt = 30


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket and when it lapses (Unix seconds)."""

    ticket: str
    expires_at: float


class Tickets:
    """Remembers which user each unspent ticket is for. These are a single node's."""

    def __init__(self) -> None:
        self._users: ExpiringMap[str] = ExpiringMap(MAX_TICKETS)

    async def put(self, ticket: str, user: str, lifetime_s: int) -> None:
        """Remember a ticket for so long.

        Raises:
            AuthenticatorDown: that is not possible just now.

        """
        self._users.put(ticket, user, lifetime_s)

    async def take(self, ticket: str) -> str | None:
        """Return the ticket's user and forget the ticket, in one step.

        Raises:
            AuthenticatorDown: that cannot be told just now.

        """
        return self._users.pop(ticket)


class TicketAuthenticator(Authenticator):
    """Issues tickets and accepts each once. Nodes that share a ``store`` share their tickets."""

    def __init__(self, settings: AuthSettings) -> None:
        self._lifetime_s = settings.ticket_lifetime_s
        self.store = Tickets()

    async def issue(self, user: str) -> Ticket:
        """Return a new ticket for the user.

        Raises:
            AuthenticatorDown: the ticket could not be stored.

        """
        ticket = secrets.token_urlsafe(32)
        await self.store.put(ticket, user, self._lifetime_s)
        return Ticket(ticket, expires_at=time() + self._lifetime_s)

    async def authenticate(self, handshake: HTTPConnection) -> Identity:
        """Return the identity that the handshake's ticket was issued for.

        Raises:
            Unauthorized: there is no ticket, it was spent, or it has lapsed.
            AuthenticatorDown: it could not be looked up.

        """
        ticket = handshake.query_params.get("ticket", "")
        if not ticket:
            msg = "no ticket"
            raise Unauthorized(msg)
        user = await self.store.take(ticket)
        if user is None:
            msg = "unknown, spent or expired ticket"
            raise Unauthorized(msg)
        return Identity(user)
