"""Calls into the team's code: handlers, observers, policies, the authenticator.

Such code may wait for ever, be cancelled by something else, or call `sys.exit`. Here it gets a
deadline, ends with its connection, and fails with an `Exception` or not at all.
"""

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

from .errors import ConnectionEnded, TeamCodeFailed, TimedOut

T = TypeVar("T")

FAILURES = (Exception, asyncio.CancelledError, SystemExit)
"""What the team's code may raise without ending the process."""


class Guard:
    """Runs the team's code for one connection, one call at a time."""

    __slots__ = ("_deadline", "_ended")

    def __init__(self) -> None:
        self._deadline: asyncio.Timeout | None = None
        self._ended = False

    async def run(self, call: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Return the result of a call. One that never waits costs no timer.

        Raises:
            TimedOut: it did not return in time and was cancelled.
            ConnectionEnded: the connection ended meanwhile, so the call was cancelled.
            TeamCodeFailed: it raised something that is no `Exception`.
            Exception: whatever else it raised.

        """
        try:
            waits_for = call.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        except (asyncio.CancelledError, SystemExit) as failure:
            raise TeamCodeFailed from failure
        return await self._wait(call, waits_for, timeout_s)

    def end(self) -> None:
        """Cancel the call that waits just now, since its connection has ended."""
        if self._deadline is not None and not self._deadline.expired():
            self._ended = True
            self._deadline.reschedule(asyncio.get_running_loop().time())

    async def _wait(self, call: Coroutine[Any, Any, T], waits_for: Any, timeout_s: float) -> T:
        task = asyncio.current_task()
        cancellations = task.cancelling() if task else 0
        deadline = self._deadline = asyncio.timeout(timeout_s)
        try:
            async with deadline:
                return await _resume(call, waits_for)
        except TimeoutError:
            if not deadline.expired():  # a time-out of the call's own
                raise
            raise (ConnectionEnded if self._ended else TimedOut) from None
        except (asyncio.CancelledError, SystemExit) as failure:
            if task and task.cancelling() > cancellations:  # the server wants the task to end
                raise
            raise TeamCodeFailed from failure
        finally:
            self._deadline = None
            self._ended = False


@coroutine
def _resume(call: Coroutine[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """Go on with a call that has begun to wait."""
    try:
        while True:
            try:
                yield waits_for
            except BaseException as failure:
                waits_for = call.throw(failure)
            else:
                waits_for = call.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
