"""The command router: registers handlers of commands and observers of connections."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from inspect import iscoroutinefunction
from typing import Any, Literal, TypeVar, get_args, get_origin

from ..errors import CommandError
from ..protocol import Command, Reply

C = TypeVar("C", bound=Command)
A = TypeVar("A", bound=Reply | asyncio.Future[Any] | None)
F = TypeVar("F", bound=Callable[..., Any])

Handler = Callable[[Any, Any, C], Coroutine[Any, Any, A]]
Observer = Callable[[Any, Any], Coroutine[Any, Any, None]]
Connecting = Callable[[Any, Any], Coroutine[Any, Any, Any]]
Begin = TypeVar("Begin", bound=Connecting)


class CommandRouter:
    """Collects handlers and observers, as an `APIRouter` collects routes.

    ``failures`` maps a kind of exception to the error that clients get if a handler raises it. By
    default, an `OSError` becomes `Unavailable`, and every other exception `InternalError`.
    A function that is not declared with ``async def`` raises `TypeError`.
    """

    def __init__(self) -> None:
        self.handlers: dict[type[Command], Handler[Any, Any]] = {}
        self.failures: dict[type[Exception], CommandError] = {}
        self.begin: Connecting | None = None
        self.on_connect: list[Observer] = []
        self.on_disconnect: list[Observer] = []

    def command(self, model: type[C]) -> Callable[[Handler[C, A]], Handler[C, A]]:
        """Register a handler: ``async def handler(service, connection, command) -> Reply | None``.

        None stands for a plain `Ok`. The connection's next command waits until the handler returns.
        To answer later, return an `asyncio.Future` of the reply, which no other command may share.
        Raise a `CommandError` to refuse the command, a `Rejected` to close the connection. After
        ``HANDLER_TIMEOUT_S``, handler and future are cancelled; when the connection has ended, only
        the handler.

        Raises:
            TypeError: the ``type`` is no `Literal` of strings.
            ValueError: there is a handler for this ``type`` already.
        """

        def register(handler: Handler[C, A]) -> Handler[C, A]:
            self._add(model, handler)
            return handler

        return register

    def connecting(self, begin: Begin) -> Begin:
        """Register the function that returns the ``state`` of a new connection, before ``welcome``.

        It may raise a subclass of `Rejected` to refuse the connection.

        Raises:
            ValueError: there is such a function already.
        """
        if self.begin is not None:
            raise ValueError("a connecting function is registered already")
        self.begin = _check_async(begin)
        return begin

    def connected(self, observer: Observer) -> Observer:
        """Register a function to run after ``welcome``. It may raise a `Rejected`, to close."""
        self.on_connect.append(_check_async(observer))
        return observer

    def disconnected(self, observer: Observer) -> Observer:
        """Register a function to run after a connection that got ``welcome`` has ended."""
        self.on_disconnect.append(_check_async(observer))
        return observer

    def include(self, other: "CommandRouter", *, replace: bool = False) -> None:
        """Add everything that is registered with another router.

        With ``replace``, its handlers replace those of commands with the same ``type``.

        Raises:
            ValueError: both have a handler for one ``type``, or both a `connecting` function.
        """
        if replace:
            types = {name for model in other.handlers for name in types_of(model)}
            replaced = [model for model in self.handlers if types & set(types_of(model))]
            for model in replaced:
                del self.handlers[model]
        for model, handler in other.handlers.items():
            self._add(model, handler)
        if other.begin is not None:
            self.connecting(other.begin)
        self.failures |= other.failures
        self.on_connect += other.on_connect
        self.on_disconnect += other.on_disconnect

    def _add(self, model: type[Command], handler: Handler[Any, Any]) -> None:
        types = types_of(model)
        if not types or not all(isinstance(each, str) for each in types):
            raise TypeError(f"{model.__name__}: the type must be a Literal of strings")
        for other in self.handlers:
            if shared := set(types) & set(types_of(other)):
                msg = f"{other.__name__} has a handler for {shared.pop()!r} already"
                raise ValueError(f"{model.__name__}: {msg}")
        self.handlers[model] = _check_async(handler)


def types_of(model: type[Command]) -> tuple[str, ...]:
    """Return the values that the ``type`` of a command may have, mostly one."""
    return tuple(_literals(model.model_fields["type"].annotation))


def _literals(annotation: Any) -> Iterator[str]:
    """Yield the values of a literal, also of one in an alias, in a union or in `Annotated`."""
    while hasattr(annotation, "__value__"):  # an alias by a `type` statement
        annotation = annotation.__value__
    for part in get_args(annotation):
        if get_origin(annotation) is Literal:
            yield part
        else:
            yield from _literals(part)


def _check_async(function: F) -> F:
    if not iscoroutinefunction(function):
        raise TypeError(f"{function!r} must be declared with async def")
    return function
