"""Idempotency keys: a request that is repeated with the same key is carried out once.

A backend or a client that got no answer cannot know whether its message was sent. So it repeats the
request with the same key, by which the service remembers the request and its result (IETF draft,
httpapi-idempotency-key).
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from hashlib import sha256
from secrets import token_hex
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from .errors import BadRequest, Unavailable
from .expiring import ExpiringMap

REMEMBERED_S = 300
"""How long a request is remembered after it was carried out."""

CLAIM_MARGIN_S = 5
"""How long the claim on a key outlives the timeout of its request, in case the process dies."""

T = TypeVar("T")


class InProgress(Unavailable):
    """The same request is in progress."""

    status = 409


class KeyReused(BadRequest):
    """The key was used for a different request."""

    status = 422


async def send_once(
    requests: ExpiringMap,
    key: str,
    request: BaseModel,
    send: Callable[..., asyncio.Future[T] | Coroutine[Any, Any, asyncio.Future[T]]],
    timeout_s: float,
) -> T:
    """Carry out a request once. For a repetition, return the result of the first request.

    ``send`` takes a ``message_id``, the same for each repetition: if a message was sent, but the
    answer was lost, clients still get the message once. ``timeout_s`` is the longest time that
    ``send`` may take. A request that fails may be repeated.

    ``requests`` maps each key to the state and the fingerprint of its request. The result is stored
    even if the caller is cancelled.

    Raises:
        InProgress: the same request is in progress.
        KeyReused: the key was used for a different request.
        Unavailable: the key cannot be looked up now.
    """
    # Without defaults, so that a version with more optional fields makes the same fingerprint.
    meaning = request.model_dump(mode="json", exclude={"id"}, exclude_defaults=True)
    fingerprint = _digest(json.dumps(meaning, sort_keys=True))
    claimed, done = f"claimed:{fingerprint}", f"done:{fingerprint}:"
    claim = f"{claimed}:{token_hex(8)}"
    existing = await requests.add(key, claim, timeout_s + CLAIM_MARGIN_S)
    if existing is not None:
        if existing.startswith(claimed):
            raise InProgress("the same request is in progress; repeat it in a moment")
        if not existing.startswith(done):
            raise KeyReused("key: was used for another request; make a new key for each request")
        first: T = from_json(existing.removeprefix(done))
        return first

    async def release() -> None:
        with suppress(Unavailable):
            await requests.pop(key)

    async def finish(sent: asyncio.Future[T]) -> T:
        try:
            result = await sent
        except Exception:
            await release()
            raise
        with suppress(Unavailable):
            await requests.put(key, done + to_json(result).decode(), REMEMBERED_S)
        return result

    try:
        answer = send(message_id=_digest(f"{key}\n{fingerprint}"))
        sent = answer if isinstance(answer, asyncio.Future) else await answer
    except BaseException:
        await release()
        raise
    finishing = asyncio.create_task(finish(sent))
    finishing.add_done_callback(lambda task: task.cancelled() or task.exception())
    return await asyncio.shield(finishing)


def _digest(text: str) -> str:
    # 128 bits are enough against collisions, and take half the memory for each key.
    return sha256(text.encode()).hexdigest()[:32]
