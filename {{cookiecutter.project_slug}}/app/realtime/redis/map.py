"""A map in Redis whose items expire."""

from collections.abc import Sequence

import structlog

from ..backplane import Channel
from ..errors import Unavailable
from ..expiring import ExpiringMap
from .client import RedisClient
from .connections import RedisCommand

log = structlog.stdlib.get_logger(__name__)


class RedisMap(ExpiringMap):
    """Values by key that all nodes share. Each kind of values has keys of its own.

    It overrides all methods of `ExpiringMap`; they raise `Unavailable` if Redis does not answer, or
    refuses.
    """

    def __init__(self, client: RedisClient, kind: str) -> None:
        self._client = client
        self._kind = kind
        client.add_probe(self._probe_commands)

    async def get(self, key: str) -> str | None:
        """Return a value that has not expired."""
        return await self._read("GET", key, repeatable=True)

    async def add(self, key: str, value: str, ttl_s: float) -> str | None:
        """Store a value and return None; if the key has a value already, only return that."""
        command = (*_set(self._name(key), value, ttl_s), "NX")
        while not await self._client.ask(*command, repeatable=True):
            existing = await self.get(key)
            if existing == value:  # stored by the first attempt, whose reply was lost
                return None
            if existing is not None:  # otherwise it has just expired
                return existing
        return None

    async def put(self, key: str, value: str, ttl_s: float) -> None:
        """Store a value for this time, in place of any other."""
        await self._client.ask(*_set(self._name(key), value, ttl_s), repeatable=True)

    async def pop(self, key: str) -> str | None:
        """Remove a value and return it, in one atomic step."""
        # Not repeatable: the repetition would find nothing.
        return await self._read("GETDEL", key, repeatable=False)

    async def _read(self, command: str, key: str, *, repeatable: bool) -> str | None:
        try:
            value = await self._client.ask(command, self._name(key), repeatable=repeatable)
            return None if value is None else str(value, "utf-8")
        except UnicodeDecodeError:
            pass
        except Unavailable as failure:
            if "WRONGTYPE" not in str(failure.__cause__):
                raise
        # Anybody with access to Redis can write such a value.
        log.warning("malformed value removed", kind=self._kind)
        await self._client.ask("DEL", self._name(key), repeatable=True)
        return None

    def _name(self, key: str) -> str:
        return f"{self._client.prefix}{self._kind}:{key}"

    def _probe_commands(self, channel: Channel) -> Sequence[RedisCommand]:
        name = self._client.key(channel, self._kind)
        return (*_set(name, "", 1), "NX"), ("GET", name), ("GETDEL", name)


def _set(name: str, value: str, ttl_s: float) -> RedisCommand:
    return "SET", name, value, "PX", max(1, round(ttl_s * 1000))
