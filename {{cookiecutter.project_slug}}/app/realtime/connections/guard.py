"""Time limits and isolation for the team's code: handlers, observers, policies, the authenticator.

Such code may hang, be cancelled by something else, or call `sys.exit`.
"""

import asyncio
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, cast

from ..errors import ConnectionEnded, ServiceError, TeamCodeFailed, TimedOut

NOT_FROM_TEAM_CODE = (KeyboardInterrupt, GeneratorExit)
"""Exceptions that the team's code does not cause: Ctrl+C, and the closing of a coroutine."""

CLEAN_UP_S = 1.0
"""How long the team's code may clean up after it was cancelled, before it is cancelled again."""


def _current_task() -> asyncio.Task[Any]:
    return cast("asyncio.Task[Any]", asyncio.current_task())


@dataclass(slots=True, eq=False)
class Guard:
    """A context in which one connection's task runs the team's code, one call at a time.

    The code is cancelled at its deadline, and when its connection ends; if its clean-up takes too
    long, it is cancelled again. The context ends without a failure, or with an `Exception`:

    - `TimedOut`: it did not return in time;
    - `ConnectionEnded`: the connection ended meanwhile;
    - `TeamCodeFailed`: it raised something that is no `Exception`, such as a `CancelledError` or
      `SystemExit` of its own, or a group of them;
    - the exception of the one task that failed in a `TaskGroup`.

    Most calls return at once. So a call only notes its deadline, and one timer serves many calls.
    """

    timeout_s: float
    _task: asyncio.Task[Any] = field(default_factory=_current_task)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _cancellations: int = 0
    _deadline: float = 0.0
    _is_running: bool = False
    _timer: asyncio.TimerHandle | None = None
    _interruption: ServiceError | None = None
    _interruptions: int = 0

    def __enter__(self) -> None:
        """Note the deadline of a call that begins."""
        self._is_running = True
        self._cancellations = self._task.cancelling()
        self._deadline = self._loop.time() + self.timeout_s
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Turn the end of a call into an `Exception`, unless the server cancels the task."""
        self._is_running = False
        interruption = self._interruption
        if interruption is not None:
            self._interruption = None
            for _ in range(self._interruptions):
                self._task.uncancel()
            self._interruptions = 0
            self.close()  # the timer of the clean-up
        if failure is None:
            return
        sole = sole_failure(failure)
        if not isinstance(sole, (Exception, *NOT_FROM_TEAM_CODE)):
            if self._task.cancelling() > self._cancellations:
                raise asyncio.CancelledError from failure
            raise (interruption or TeamCodeFailed()) from failure
        if sole is not failure:
            raise sole

    def end(self) -> None:
        """Cancel the call that is running: its connection has ended."""
        self._interrupt(ConnectionEnded())

    def close(self) -> None:
        """Stop the timer. The next call starts it again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_deadline(self) -> None:
        self._timer = None
        if not self._is_running:
            return  # the next call sets the timer again
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
        else:
            self._interrupt(TimedOut())

    def _interrupt(self, interruption: ServiceError) -> None:
        if not self._is_running:
            return
        if not isinstance(self._interruption, ConnectionEnded):
            self._interruption = interruption
        self._interruptions += 1
        self._task.cancel()
        self.close()
        self._deadline = self._loop.time() + CLEAN_UP_S
        self._timer = self._loop.call_at(self._deadline, self._check_deadline)


def sole_failure(failure: BaseException) -> BaseException:
    """Return the exception in a group of one, or else the failure itself."""
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        (failure,) = failure.exceptions
    return failure
