"""Background jobs: coroutines that run as long as the service.

A job that fails is restarted after a pause, which doubles with each failure in a row. If an
essential job fails, the process stops with status 1.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutinefunction
from time import monotonic
from typing import Any, TypeVar

import structlog

from .errors import Misconfigured, TeamCodeFailed

FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 60.0

log = structlog.stdlib.get_logger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Job:
    """A coroutine function to run in the background. If it returns, it is not run again."""

    run: Callable[..., Coroutine[None, None, None]]
    essential: bool = False

    def __post_init__(self) -> None:
        """Raise `TypeError` unless it is an ``async def``."""
        if not iscoroutinefunction(self.run):
            raise TypeError(f"{self.name} must be declared with async def")

    @property
    def name(self) -> str:
        """The name in the log."""
        function = self.run.func if isinstance(self.run, partial) else self.run
        return getattr(function, "__qualname__", repr(function))


@asynccontextmanager
async def running(jobs: Sequence[Job], stop_service: Callable[[], None]) -> AsyncIterator[None]:
    """Run jobs in this context. At its end they stop in reverse order, one after the other."""
    async with AsyncExitStack() as stack:
        for job in jobs:
            task = asyncio.create_task(keep_running(job, stop_service))
            stack.push_async_callback(_stop, task)
        yield


async def _stop(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def keep_running(job: Job, stop_service: Callable[[], None]) -> None:
    """Run a job, and restart it when it fails; call ``stop_service`` if it is essential.

    A job that raises `Misconfigured` always stops the service, since a retry cannot succeed.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        started_at = monotonic()
        failure = await _run(job)
        if failure is None:
            return
        misconfigured = _find_misconfigured(failure)
        if misconfigured or job.essential:
            stop_service()  # before the log, which may block
            if misconfigured:
                log.critical("the service stops", reason=str(misconfigured))
            else:
                log.critical("background job failed", job=job.name, exc_info=failure)
            return
        if monotonic() - started_at > MAX_PAUSE_S:
            pause_s = FIRST_PAUSE_S
        log.error("background job failed", job=job.name, next_try_s=pause_s, exc_info=failure)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, MAX_PAUSE_S)


async def _run(job: Job) -> BaseException | None:
    """Run a job once and return how it failed."""
    # A task of its own, so that a job that cancels itself does not cancel this task. Also, before
    # Python 3.11.3, timeouts fail in a task whose group has failed (python/cpython#102815).
    task = asyncio.create_task(without_exit(job.run))
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:  # the service stops
        await _stop(task)
        if not task.cancelled() and (failure := task.exception()):
            log.error("background job failed", job=job.name, exc_info=failure)
        raise
    return asyncio.CancelledError() if task.cancelled() else task.exception()


async def without_exit(call: Callable[[], Awaitable[Result]]) -> Result:
    """Await the team's code in a task without a `Guard`, where `SystemExit` would end the process.

    Raises:
        TeamCodeFailed: it raised a `SystemExit`.
    """
    try:
        return await call()
    except SystemExit as failure:
        raise TeamCodeFailed from failure


def _find_misconfigured(failure: BaseException) -> Misconfigured | None:
    """Return the failure if it is a `Misconfigured`, or the first one in an exception group."""
    if isinstance(failure, BaseExceptionGroup):
        return next(filter(None, map(_find_misconfigured, failure.exceptions)), None)
    return failure if isinstance(failure, Misconfigured) else None
