"""Claims that hold on every node, whichever of them a request comes to."""

from collections.abc import Sequence
from contextlib import suppress

from ..backplane import Channel
from ..errors import Unavailable
from ..idempotency import CLAIMED_S, REMEMBERED_S, Claim, Claims
from .client import RedisClient
from .connections import Command

DONE = "done:"
CLAIMED = "claimed:"


class RedisClaims(Claims):
    """Claims in Redis, which forgets them by itself."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._prefix = f"{client.prefix}idempotency:"
        client.probe_with(self._attempt)

    async def claim(self, key: str, fingerprint: str) -> Claim | None:
        """Take a key that is free.

        Raises:
            Unavailable: Redis does not answer.

        """
        name = self._prefix + key
        claimed = CLAIMED + fingerprint
        # Not to be repeated: it would find its own claim, and take it for another's.
        if await self._client.ask("SET", name, claimed, "NX", "EX", CLAIMED_S, repeatable=False):
            return None
        value = await self._client.ask("GET", name, repeatable=True)
        if not isinstance(value, bytes):  # it has lapsed in between
            return Claim(fingerprint, done=False)
        state, _, used_for = value.decode(errors="replace").rpartition(":")
        return Claim(used_for, done=state + ":" == DONE)

    async def keep(self, key: str, fingerprint: str) -> None:
        """Remember what was carried out, as long as Redis is there."""
        done = DONE + fingerprint
        with suppress(Unavailable):
            await self._client.ask(
                "SET", self._prefix + key, done, "EX", REMEMBERED_S, repeatable=True
            )

    async def release(self, key: str) -> None:
        """Make a key free, now or when its claim lapses."""
        with suppress(Unavailable):
            await self._client.ask("DEL", self._prefix + key, repeatable=True)

    def _attempt(self, channel: Channel) -> Sequence[Command]:
        name = self._client.key(channel, "claim")
        return ("SET", name, CLAIMED, "NX", "EX", CLAIMED_S), ("GET", name), ("DEL", name)
