"""Requests that may be repeated and are carried out once: the header ``Idempotency-Key``.

A backend that got no answer cannot know whether its message was sent. It repeats the request with
the same key, and the service remembers the request (IETF draft, httpapi-idempotency-key).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from .errors import ServiceError, Unavailable
from .expiring import ExpiringMap

REMEMBERED_S = 300
"""How long a request is remembered after it was carried out."""

CLAIMED_S = 10
"""How long a request may take. If its node dies, it can be repeated after this time."""


class InProgress(ServiceError):
    """The same request is in progress."""


class KeyReused(ServiceError):
    """The key was used for a different request."""


@asynccontextmanager
async def once(claims: ExpiringMap, key: str | None, fingerprint: str) -> AsyncIterator[bool]:
    """Yield whether to carry out the request; if that raises, the request may be repeated.

    ``claims`` has the state and the fingerprint of the request for each key.

    Raises:
        InProgress: the same request is in progress.
        KeyReused: the key was used for a different request.
        Unavailable: the key cannot be looked up now.

    """
    if key is None:
        yield True
        return
    claimed, done = f"claimed:{fingerprint}", f"done:{fingerprint}"
    existing = await claims.add(key, claimed, CLAIMED_S)
    if existing is None:
        try:
            yield True
        except BaseException:
            with suppress(Unavailable):
                await claims.pop(key)
            raise
        with suppress(Unavailable):
            await claims.put(key, done, REMEMBERED_S)
    elif existing == done:
        yield False
    elif existing == claimed:
        raise InProgress
    else:
        raise KeyReused
