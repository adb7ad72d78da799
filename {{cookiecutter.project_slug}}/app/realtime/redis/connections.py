"""Connections to Redis that are checked before use, and what their failures mean."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from hiredis import pack_command
from redis.asyncio import client
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    DataError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from ..errors import Misconfigured

FAILURES = (RedisError, RedisClusterException, OSError)
"""Exceptions of Redis and of connections to it; a timeout is an `OSError`."""

HOPELESS = {
    r"DB index|SELECT": "the server refuses the database",
    r"read only replica": "the server is a replica and takes no writes; name the primary",
    r"(?i)unknown (redis )?command": "the server lacks a command; it is older than Redis 6.2",
    r"permissions|can't (run|access)": "the user lacks a permission; docs/operating.md lists them",
}
"""Patterns of errors that no retry can fix, and the reason to report for each."""

TEMPORARY = re.compile(r"permissions|can't (run|access)|used memory|MISCONF|NOREPLICAS")
"""Pattern of the errors of a server that may work again later."""

# {% if cookiecutter.rooms %}
MALFORMED = re.compile(r"WRONGTYPE|attempt to |bad argument")
"""Pattern of a script's errors when it finds data that no node can have written."""

# {% endif %}
RedisCommand = Sequence[Any]
"""The name of a command, and its arguments."""

TICKS = 10


def explain(failure: BaseException) -> str:
    """Return a line for the log; redis-py's own ``repr`` leaves out the message."""
    return f"{type(failure).__name__}: {failure}"


def is_temporary(refusal: Exception) -> bool:
    """Return whether the server may accept the same command later."""
    return TEMPORARY.search(str(refusal)) is not None


# {% if cookiecutter.rooms %}
def has_malformed_data(refusal: Exception) -> bool:
    """Return whether a script has failed because of malformed data in Redis."""
    return MALFORMED.search(str(refusal)) is not None


# {% endif %}
def as_misconfigured(failure: BaseException) -> Misconfigured | None:
    """Return a `Misconfigured` for a failure that no retry can fix, None if a retry may fix it."""
    if isinstance(failure, Misconfigured):
        return failure
    # redis-py wraps the errors of a new connection.
    for each in (failure, failure.__cause__):
        if isinstance(each, AuthenticationError | AuthorizationError):
            text = "the server refuses the user or password; sentinels use REDIS_SENTINEL_PASSWORD"
            return Misconfigured(f"REDIS_URL: {text}: {each}")
        for pattern, reason in HOPELESS.items():
            if isinstance(each, ResponseError) and re.search(pattern, str(each)):
                return Misconfigured(f"REDIS_URL: {reason}: {each}")
    return None


@asynccontextmanager
async def answered_within(timeout_s: float) -> AsyncIterator[None]:
    """Limit how long Redis may take to answer.

    The time is counted in ticks. While this process is blocked, at most one tick is counted, so a
    busy node does not time out by itself.

    Raises:
        TimeoutError: there was no answer in time.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None
    limit = asyncio.timeout(None)

    def tick(left: int) -> None:
        nonlocal timer
        if left:
            timer = loop.call_later(timeout_s / TICKS, tick, left - 1)
        else:
            limit.reschedule(loop.time())

    try:
        async with limit:
            tick(TICKS)
            yield
    except TimeoutError as failure:
        if limit.expired():
            raise TimeoutError(f"no answer within {timeout_s:g} s") from failure
        raise
    finally:
        if timer is not None:
            timer.cancel()


class CheckedConnection(AbstractConnection):
    """A connection that reconnects before it sends a command, if it is dead.

    If Redis has closed an idle connection (its setting ``timeout``), the socket is readable. If a
    firewall has dropped it, only a ping shows that, so one precedes the command after an idle time.
    """

    def __init__(self, *, idle_s: float, ping_timeout_s: float, **options: Any) -> None:
        self._idle_s = idle_s
        self._ping_timeout_s = ping_timeout_s
        self._used_at_s = 0.0
        self.listens = False
        super().__init__(**options)

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Set up a new connection."""
        self.listens = False
        await super().on_connect_check_health(check_health=False)

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        """Send a command; reconnect first if the connection is dead."""
        is_checked = check_health and self.is_connected and not self.listens
        if is_checked and not await self._is_alive():
            await self.disconnect(nowait=True)
        self._used_at_s = monotonic()
        await super().send_packed_command(command, check_health=check_health)

    def pack_command(self, *args: Any) -> list[bytes]:
        """Encode a command in C: redis-py's Python code takes several times as long."""
        name, *arguments = args  # redis-py names some commands by two words
        try:
            return [pack_command((*name.split(), *arguments))]
        except UnicodeEncodeError as failure:  # callers handle only `FAILURES`
            raise DataError("the text of a command is not valid Unicode") from failure

    async def _is_alive(self) -> bool:
        try:
            if await self.can_read():  # closed, or a reply that nobody waits for
                return False
            if monotonic() - self._used_at_s > self._idle_s:
                async with answered_within(self._ping_timeout_s):
                    await self.send_command("PING", check_health=False)
                    await self.read_response()
        except ResponseError:  # a refusal is an answer, too
            return True
        except FAILURES:
            return False
        return True


class PubSub(client.PubSub):
    """A connection to listen on. If it is lost, the backplane replaces it."""

    async def _reconnect(self, *_: object) -> None:
        """Do nothing: one task would read from the new connection while another subscribes."""


def checked(kind: type[AbstractConnection]) -> type[CheckedConnection]:
    """Return a class of connections of this kind that are checked before use."""
    return type(f"Checked{kind.__name__}", (CheckedConnection, kind), {})
