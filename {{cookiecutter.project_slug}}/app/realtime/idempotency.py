"""Requests that may be repeated and are carried out once, since they have a key.

A backend or a client that got no answer cannot know whether its message was sent. It repeats the
request with the same key, and the service remembers the request (IETF draft,
httpapi-idempotency-key).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from typing import Any, TypeVar

from pydantic_core import from_json, to_json

from .errors import BadRequest, Unavailable
from .expiring import ExpiringMap
from .protocol import Command

T = TypeVar("T")

REMEMBERED_S = 300
"""How long a request is remembered after it was carried out."""

CLAIMED_S = 10
"""How long a request may take. If its node dies, it can be repeated after this time."""


class InProgress(Unavailable):
    """The same request is in progress."""


class KeyReused(BadRequest):
    """The key was used for a different request."""


class Claim:
    """The right to carry out a request, once for its key.

    ``claims`` has the state and the fingerprint of the request for each key, and its result.
    """

    def __init__(self, claims: ExpiringMap, key: str, fingerprint: str) -> None:
        self._claims = claims
        self._key = key
        self._claimed, self._done = f"claimed:{fingerprint}", f"done:{fingerprint}:"

    async def take(self) -> str | None:
        """Return null if the request is to be carried out, or else its result, in JSON.

        Raises:
            InProgress: the same request is in progress.
            KeyReused: the key was used for a different request.
            Unavailable: the key cannot be looked up now.

        """
        existing = await self._claims.add(self._key, self._claimed, CLAIMED_S)
        if existing is None:
            return None
        if existing == self._claimed:
            msg = "the same request is in progress; repeat it in a moment"
            raise InProgress(msg)
        if not existing.startswith(self._done):
            msg = "key: it was used for another request; make a new one for each"
            raise KeyReused(msg)
        return existing.removeprefix(self._done)

    async def release(self) -> None:
        """Let the request be repeated, since it has failed."""
        with suppress(Unavailable):
            await self._claims.pop(self._key)

    async def finish(self, result: object = None) -> None:
        """Remember that the request was carried out."""
        with suppress(Unavailable):
            done = self._done + to_json(result).decode()
            await self._claims.put(self._key, done, REMEMBERED_S)


@asynccontextmanager
async def once(claims: ExpiringMap, key: str | None, fingerprint: str) -> AsyncIterator[bool]:
    """Yield whether to carry out the request; if that raises, the request may be repeated.

    Raises:
        InProgress: the same request is in progress.
        KeyReused: the key was used for a different request.
        Unavailable: the key cannot be looked up now.

    """
    if key is None:
        yield True
        return
    claim = Claim(claims, key, fingerprint)
    if await claim.take() is not None:
        yield False
        return
    try:
        yield True
    except BaseException:
        await claim.release()
        raise
    await claim.finish()


async def send_once(
    claims: ExpiringMap,
    user: str,
    key: str,
    command: Command,
    send: Callable[[], asyncio.Future[T] | Coroutine[Any, Any, asyncio.Future[T]]],
) -> asyncio.Future[T]:
    """Send a user's message, or return the result of the first time.

    What happens to the connection meanwhile, or to the future, changes nothing: what is on its way
    is remembered when it was sent.

    Raises:
        InProgress: the same command is in progress.
        KeyReused: the key was used for a different command.
        Unavailable: the key cannot be looked up now.

    """
    fingerprint = sha256(command.model_dump_json(exclude={"id"}).encode()).hexdigest()
    # Neither a user's name nor a backend's key has a line break.
    claim = Claim(claims, f"{user}\n{key}", fingerprint)
    if (result := await claim.take()) is not None:
        sent: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        sent.set_result(from_json(result))
        return sent
    try:
        answer = send()
        sent = answer if isinstance(answer, asyncio.Future) else await answer
    except BaseException:
        await claim.release()
        raise
    return asyncio.shield(_remember(claim, sent))


async def _remember(claim: Claim, sent: asyncio.Future[T]) -> T:
    try:
        result = await sent
    except Exception:
        await claim.release()
        raise
    await claim.finish(result)
    return result
