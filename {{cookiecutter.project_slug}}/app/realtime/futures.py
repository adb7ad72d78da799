"""Futures of results that are known already, or that follow from others. They need no task."""

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
    """Return a future of ``make(result)`` for the result of another, or of a failure."""
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
    """Return ``make(result)`` if the result is there already, otherwise a future like `then`.

    If the future has failed already, this raises its failure.
    """
    return make(first.result()) if first.done() else then(first, make)
