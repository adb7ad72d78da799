"""Claims that hold on every node, whichever of them a request comes to."""

from asyncio import timeout
from contextlib import suppress

from .client_redis import FAILURES, Commands
from .errors import Unavailable
from .idempotency import CLAIMED_S, REMEMBERED_S, Claim

DONE = "done:"
CLAIMED = "claimed:"


class RedisClaims:
    """Claims in Redis, which forgets them by itself."""

    def __init__(self, redis: Commands, prefix: str, timeout_s: float) -> None:
        self._redis = redis
        self._prefix = f"{prefix}idempotency:"
        self._timeout_s = timeout_s

    async def claim(self, key: str, fingerprint: str) -> Claim | None:
        """Take a key that is free.

        Raises:
            Unavailable: Redis does not answer.

        """
        name = self._prefix + key
        try:
            async with timeout(self._timeout_s):
                if await self._redis.set(name, CLAIMED + fingerprint, nx=True, ex=CLAIMED_S):
                    return None
                value = await self._redis.get(name)
        except FAILURES as failure:
            msg = "the key cannot be checked just now"
            raise Unavailable(msg) from failure
        if not isinstance(value, bytes):  # it has lapsed in between
            return Claim(fingerprint, done=False)
        state, _, used_for = value.decode(errors="replace").rpartition(":")
        return Claim(used_for, done=state + ":" == DONE)

    async def keep(self, key: str, fingerprint: str) -> None:
        """Remember what was carried out, as long as Redis is there."""
        with suppress(*FAILURES):
            async with timeout(self._timeout_s):
                await self._redis.set(self._prefix + key, DONE + fingerprint, ex=REMEMBERED_S)

    async def release(self, key: str) -> None:
        """Make a key free, now or when its claim lapses."""
        with suppress(*FAILURES):
            async with timeout(self._timeout_s):
                await self._redis.delete(self._prefix + key)
