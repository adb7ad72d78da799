"""Tickets that any node may take, whichever node sold them."""

from asyncio import timeout

from .auth_ticket import TicketStoreDown
from .client_redis import FAILURES, Commands


class RedisTickets:
    """Tickets in Redis, which forgets them by itself."""

    def __init__(self, redis: Commands, prefix: str, timeout_s: float) -> None:
        self._redis = redis
        self._prefix = f"{prefix}ticket:"
        self._timeout_s = timeout_s

    async def put(self, ticket: str, user: str, lifetime_s: int) -> None:
        """Remember a ticket for so long.

        Raises:
            TicketStoreDown: Redis does not answer.

        """
        try:
            async with timeout(self._timeout_s):
                await self._redis.set(self._prefix + ticket, user, ex=lifetime_s)
        except FAILURES as failure:
            raise TicketStoreDown from failure

    async def take(self, ticket: str) -> str | None:
        """Return the ticket's user and forget the ticket, in one step (GETDEL, Redis 6.2).

        Raises:
            TicketStoreDown: Redis does not answer.

        """
        try:
            async with timeout(self._timeout_s):
                user = await self._redis.getdel(self._prefix + ticket)
        except FAILURES as failure:
            raise TicketStoreDown from failure
        return user.decode() if isinstance(user, bytes) else None
