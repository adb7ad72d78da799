"""Calls into the team's code: handlers, observers, policies, the authenticator.

Such code may wait for ever, be cancelled by something else, or call `sys.exit`. Here it gets a
deadline, ends with its connection, and fails with an `Exception` or not at all.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from .errors import ConnectionEnded, ServiceError, TeamCodeFailed, TimedOut

T = TypeVar("T")

FAILURES = (Exception, asyncio.CancelledError, SystemExit)
"""What the team's code may raise without ending the process."""


class Guard:
    """Runs the team's code for one connection, one call at a time.

    Most calls return at once. So a call only notes its deadline, and one timer serves many calls:
    it looks at the deadline of the call that runs when it is due.
    """

    __slots__ = ("_deadline", "_interruption", "_loop", "_task", "_timeout_s", "_timer")

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._interruption: ServiceError | None = None

    async def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Return the result of a call.

        Raises:
            TimedOut: it did not return in time and was cancelled.
            ConnectionEnded: the connection ended meanwhile, so the call was cancelled.
            TeamCodeFailed: it raised something that is no `Exception`.
            Exception: whatever else it raised.

        """
        task = self._task = asyncio.current_task(self._loop)
        cancellations = task.cancelling() if task else 0
        self._deadline = self._loop.time() + self._timeout_s
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._look)
        try:
            return await call
        except (asyncio.CancelledError, SystemExit) as failure:
            interruption = self._interruption
            if task and task.cancelling() > cancellations + (interruption is not None):
                raise  # the server wants the task to end
            raise (interruption or TeamCodeFailed()) from failure
        finally:
            self._task = None
            if self._interruption is not None:
                self._interruption = None
                if task:
                    task.uncancel()

    def end(self) -> None:
        """Cancel the call that waits just now, since its connection has ended."""
        self._interrupt(ConnectionEnded())

    def close(self) -> None:
        """Stop the timer; there will be no more calls."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._task is None:
            return  # a next call sets the timer again
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look)
        else:
            self._interrupt(TimedOut())

    def _interrupt(self, interruption: ServiceError) -> None:
        if self._task is not None and self._interruption is None:
            self._interruption = interruption
            self._task.cancel()
