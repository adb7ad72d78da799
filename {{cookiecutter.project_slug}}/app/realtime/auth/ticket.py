"""Authentication by ticket: your backend requests one, and a browser uses it within seconds.

A ticket is valid for one connection, so it may be in a URL. Every browser can put it there.
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
from .identity import BaseAuthenticator, Identity

CREDENTIALS = APIKeyQuery(name="ticket", auto_error=False)
"""How OpenAPI and AsyncAPI describe the credentials."""

MAX_TICKETS = 1_000_000
"""Unused tickets that a single node stores; at the limit, the oldest are dropped."""


class AuthSettings(SettingsPart):
    """The key of your backend, which alone can request tickets, and their lifetime."""

    backend_key: Secret
    ticket_lifetime_s: PositiveInt = 30


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket and the time at which it expires (Unix seconds)."""

    ticket: str
    expires_at: float


class Tickets:
    """Stores the user of each unused ticket, in the memory of a single node.

    Both methods raise `AuthenticatorDown` while the store does not work.
    """

    def __init__(self) -> None:
        self._users: ExpiringMap[str] = ExpiringMap(MAX_TICKETS)

    async def put(self, ticket: str, user: str, lifetime_s: int) -> None:
        """Store a ticket for its lifetime."""
        self._users.put(ticket, user, lifetime_s)

    async def take(self, ticket: str) -> str | None:
        """Remove the ticket and return its user, in one atomic step; null if it is not there."""
        return self._users.pop(ticket)


class Authenticator(BaseAuthenticator):
    """Issues tickets and accepts each once. Nodes with the same ``store`` share their tickets."""

    def __init__(self, settings: AuthSettings) -> None:
        self._lifetime_s = settings.ticket_lifetime_s
        self.store = Tickets()

    async def issue(self, user: str) -> Ticket:
        """Return a new ticket for the user.

        Raises:
            AuthenticatorDown: the ticket cannot be stored now.

        """
        ticket = secrets.token_urlsafe(32)
        await self.store.put(ticket, user, self._lifetime_s)
        return Ticket(ticket, expires_at=time() + self._lifetime_s)

    async def authenticate(self, handshake: HTTPConnection) -> Identity:
        """Return the identity that the handshake's ticket was issued for.

        Raises:
            Unauthorized: there is no ticket, or it was used before or has expired.
            AuthenticatorDown: the ticket cannot be looked up now.

        """
        ticket = handshake.query_params.get("ticket", "")
        if not ticket:
            raise Unauthorized("no ticket")
        user = await self.store.take(ticket)
        if user is None:
            raise Unauthorized("unknown, used or expired ticket")
        return Identity(user)
