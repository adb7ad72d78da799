"""Requests that may be repeated and are carried out once: the header ``Idempotency-Key``.

A backend that got no answer cannot know whether its message went out. It repeats the request with
the same key, and the service remembers what it has done (IETF draft, httpapi-idempotency-key).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from .errors import ServiceError
from .expiring import ExpiringMap

REMEMBERED_S = 300
"""How long a request that was carried out is remembered."""

CLAIMED_S = 10
"""How long one may take: should its node die meanwhile, a repetition may then have another try."""

MAX_KEYS = 100_000


class UnderWay(ServiceError):
    """The same request is being carried out just now."""


class KeyReused(ServiceError):
    """The key belongs to a request that said something else."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Which request a key is for, by its fingerprint, and whether that has been carried out."""

    fingerprint: str
    done: bool


class Claims:
    """Remembers which keys were used. At the limit of a single node's, the oldest are forgotten."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._claims: ExpiringMap[Claim] = ExpiringMap(max_keys)

    async def claim(self, key: str, fingerprint: str) -> Claim | None:
        """Take a key that is free, for `CLAIMED_S`; otherwise return what it is used for.

        Raises:
            Unavailable: that cannot be told just now.

        """
        claim = self._claims.get(key)
        if claim is None:
            self._claims.put(key, Claim(fingerprint, done=False), CLAIMED_S)
        return claim

    async def keep(self, key: str, fingerprint: str) -> None:
        """Remember for `REMEMBERED_S` that the key's request was carried out."""
        self._claims.put(key, Claim(fingerprint, done=True), REMEMBERED_S)

    async def release(self, key: str) -> None:
        """Make a key free whose request failed."""
        self._claims.pop(key)


@asynccontextmanager
async def once(claims: Claims, key: str | None, fingerprint: str) -> AsyncIterator[bool]:
    """Yield whether the request is to be carried out; if that raises, it may be repeated.

    Raises:
        UnderWay: it is being carried out already.
        KeyReused: the key was used for another request.
        Unavailable: that cannot be told just now.

    """
    if key is None:
        yield True
        return
    claim = await claims.claim(key, fingerprint)
    if claim is None:
        try:
            yield True
        except BaseException:
            await claims.release(key)
            raise
        await claims.keep(key, fingerprint)
    elif claim.fingerprint != fingerprint:
        raise KeyReused
    elif not claim.done:
        raise UnderWay
    else:
        yield False
