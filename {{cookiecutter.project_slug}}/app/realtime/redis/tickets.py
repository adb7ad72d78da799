"""Tickets that any node may take, whichever node sold them."""

from ..backplane import Channel
from ..errors import AuthenticatorDown, Unavailable
from .client import Batch, RedisClient


class RedisTickets:
    """Tickets in Redis, which forgets them by itself."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._prefix = f"{client.prefix}ticket:"
        client.probe_with(self._attempt)

    async def put(self, ticket: str, user: str, lifetime_s: int) -> None:
        """Remember a ticket for so long.

        Raises:
            AuthenticatorDown: Redis does not answer.

        """
        command = ("SET", self._prefix + ticket, user, "EX", lifetime_s)
        try:
            await self._client.ask(*command, repeatable=True)
        except Unavailable as failure:
            raise AuthenticatorDown from failure

    async def take(self, ticket: str) -> str | None:
        """Return the ticket's user and forget the ticket, in one step (GETDEL, Redis 6.2).

        Raises:
            AuthenticatorDown: Redis does not answer.

        """
        try:
            # Not to be repeated: the ticket would be gone.
            user = await self._client.ask("GETDEL", self._prefix + ticket, repeatable=False)
        except Unavailable as failure:
            raise AuthenticatorDown from failure
        return user.decode() if isinstance(user, bytes) else None

    def _attempt(self, pipeline: Batch, channel: Channel) -> None:
        name = self._client.key(channel, "ticket")
        pipeline.execute_command("SET", name, "", "EX", 1)
        pipeline.execute_command("GETDEL", name)
