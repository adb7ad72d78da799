"""Authentication by ticket: the team's backend asks for one, a browser spends it within seconds.

A ticket works once, so it may stand in a URL, the one place where every browser can put it.
"""

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from time import monotonic, time
from typing import Protocol

from fastapi.security import APIKeyQuery
from pydantic import PositiveInt
from starlette.requests import HTTPConnection

from ..errors import Unauthorized
from ..fields import Secret, SettingsPart
from .identity import Authenticator, Identity

CREDENTIALS = APIKeyQuery(name="ticket", auto_error=False)
"""How OpenAPI describes the credentials."""


class AuthSettings(SettingsPart):
    """Tickets are sold to the team's backend only, so its key must be set."""

    backend_key: Secret
    ticket_lifetime_s: PositiveInt = 30


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket and when it lapses (Unix seconds)."""

    ticket: str
    expires_at: float


class TicketStore(Protocol):
    """Remembers which user each unspent ticket is for."""

    async def put(self, ticket: str, user: str, lifetime_s: int) -> None:
        """Remember a ticket for so long.

        Raises:
            AuthenticatorDown: the store does not answer.

        """

    async def take(self, ticket: str) -> str | None:
        """Return the ticket's user and forget the ticket, in one step.

        Raises:
            AuthenticatorDown: the store does not answer.

        """
        ...


class MemoryTickets:
    """Tickets of a single node."""

    def __init__(self) -> None:
        # Unlike a dict, it finds its first item at once after many before that were removed.
        self._unspent: OrderedDict[str, tuple[str, float]] = OrderedDict()

    async def put(self, ticket: str, user: str, lifetime_s: int) -> None:
        """Remember a ticket, and forget those that have lapsed: the oldest stand first."""
        now = monotonic()
        while self._unspent and next(iter(self._unspent.values()))[1] <= now:
            self._unspent.popitem(last=False)
        self._unspent[ticket] = (user, now + lifetime_s)

    async def take(self, ticket: str) -> str | None:
        """Return the user of a ticket that has not lapsed, once."""
        user, lapses_at = self._unspent.pop(ticket, (None, 0.0))
        return user if monotonic() < lapses_at else None


class TicketAuthenticator(Authenticator):
    """Issues tickets and accepts each once. Nodes that share a ``store`` share their tickets."""

    def __init__(self, settings: AuthSettings) -> None:
        self._lifetime_s = settings.ticket_lifetime_s
        self.store: TicketStore = MemoryTickets()

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
