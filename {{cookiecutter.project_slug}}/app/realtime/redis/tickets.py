"""Tickets in Redis, which every node accepts."""

from collections.abc import Sequence
from typing import Any

from ..auth.ticket import Tickets
from ..backplane import Channel
from ..errors import AuthenticatorDown, Unavailable
from .client import RedisClient
from .connections import Command


class RedisTickets(Tickets):
    """Tickets in Redis, which forgets them by itself."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._prefix = f"{client.prefix}ticket:"
        client.probe_with(self._attempt)

    async def put(self, ticket: str, user: str, lifetime_s: int) -> None:
        """Remember a ticket for so long."""
        await self._ask("SET", self._prefix + ticket, user, "EX", lifetime_s, repeatable=True)

    async def take(self, ticket: str) -> str | None:
        """Return the ticket's user and forget the ticket, in one step (GETDEL, Redis 6.2)."""
        # Not to be repeated: the ticket would be gone.
        user = await self._ask("GETDEL", self._prefix + ticket, repeatable=False)
        return user.decode() if isinstance(user, bytes) else None

    async def _ask(self, *command: Any, repeatable: bool) -> Any:
        try:
            return await self._client.ask(*command, repeatable=repeatable)
        except Unavailable as failure:
            raise AuthenticatorDown from failure

    def _attempt(self, channel: Channel) -> Sequence[Command]:
        name = self._client.key(channel, "ticket")
        return ("SET", name, "", "EX", 1), ("GETDEL", name)
