"""Futures that are done at once, or derived from another future, without a task."""

from asyncio import CancelledError, Future, get_running_loop
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def done(result: T) -> Future[T]:
    """Return a future that has this result."""
    future: Future[T] = get_running_loop().create_future()
    future.set_result(result)
    return future


def then(first: Future[T], make: Callable[[T], R]) -> Future[R]:
    """Return a future of ``make(first.result())``. It fails if ``first`` or ``make`` does."""
    made: Future[R] = first.get_loop().create_future()

    def finish(first: Future[T]) -> None:
        try:
            result = make(first.result())
        except (Exception, CancelledError) as failure:
            if not made.done():
                made.set_exception(failure)
        else:
            if not made.done():
                made.set_result(result)

    if first.done():
        finish(first)
    else:
        first.add_done_callback(finish)
    return made


def now_or_later(first: Future[T], make: Callable[[T], R]) -> R | Future[R]:
    """Return ``make(first.result())`` if ``first`` is done, otherwise a future of it, like `then`.

    If ``first`` has already failed, this raises its exception.
    """
    return make(first.result()) if first.done() else then(first, make)
