"""From a client's frame to the function that handles it, and back to the one answer."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import reduce
from inspect import iscoroutinefunction
from operator import or_
from typing import Annotated, Any, TypeVar, get_args

import structlog
from pydantic import Field, TypeAdapter, ValidationError

from ..connection import Connection
from ..errors import (
    BadRequest,
    CommandError,
    ConnectionEnded,
    InternalError,
    Rejected,
    TimedOut,
    Unavailable,
    UnknownType,
    declared,
)
from ..guard import FAILURES
from ..metrics import Metrics
from ..protocol import Command, CommandHead, Ok, Reply, ServerFrame
from ..service import Service

log = structlog.stdlib.get_logger(__name__)

C = TypeVar("C", bound=Command)
F = TypeVar("F", bound=Callable[..., Any])
Handler = Callable[[Any, Any, C], Coroutine[Any, Any, "Reply | Followed | Later | None"]]
Observer = Callable[[Any, Any], Coroutine[Any, Any, None]]
Connecting = Callable[[Any, Any], Coroutine[Any, Any, Any]]

FAILED = InternalError("the command failed inside the service")

EXPECTED: dict[type[Exception], CommandError] = {
    OSError: Unavailable("something that the service needs does not answer just now"),
}
"""What clients are told of failures that any handler may have: no connection, a time-out."""


@dataclass(slots=True)
class Later:
    """A reply that is due when a message has been passed on; the next command need not wait.

    A client may thus have many messages under way to the backplane at once.
    """

    passed_on: asyncio.Future[Any]
    make_reply: Callable[[Any], Reply] | None = None
    """Makes a reply of what the future yields; null means a plain `Ok`."""

    def reply(self) -> Reply | None:
        """Return the reply, once the message has been passed on.

        Raises:
            Unavailable: it could not be.

        """
        result = self.passed_on.result()
        return None if self.make_reply is None else self.make_reply(result)


@dataclass(slots=True)
class Followed:
    """A reply, and frames that come right behind it, before anything else can."""

    reply: Reply
    frames: Sequence[ServerFrame]


class CommandRouter:
    """Collects handlers by the command they take, and observers of connections.

    ``failures`` says what clients are told when a handler raises an exception of a kind, or of one
    derived from it. A failure that nobody has foreseen is `InternalError`.
    """

    def __init__(self) -> None:
        self.handlers: dict[type[Command], Handler[Any]] = {}
        self.failures: dict[type[Exception], CommandError] = {}
        self.begin: Connecting | None = None
        self.on_connect: list[Observer] = []
        self.on_disconnect: list[Observer] = []

    def command(self, model: type[C]) -> Callable[[Handler[C]], Handler[C]]:
        """Register a handler: ``async def handler(service, connection, command) -> Reply | None``.

        The client gets what the handler returns, `Later` or `Followed` by more if it says so; null
        means a plain `Ok`. To refuse, raise a `CommandError`; to close the connection, raise a
        `Rejected`. A handler that waits longer than ``HANDLER_TIMEOUT_S`` is cancelled, and so is
        one whose connection has ended.
        """

        def register(handler: Handler[C]) -> Handler[C]:
            self._add(model, handler)
            return handler

        return register

    def connecting(self, begin: Connecting) -> Connecting:
        """Register the function that returns the ``state`` of a new connection, before ``welcome``.

        It may refuse the connection by raising `Rejected`.
        """
        self.begin = _check_async(begin)
        return begin

    def connected(self, observer: Observer) -> Observer:
        """Register a function that runs after ``welcome``; it may close by raising `Rejected`."""
        self.on_connect.append(_check_async(observer))
        return observer

    def disconnected(self, observer: Observer) -> Observer:
        """Register a function that runs when a connection has ended, however it ended.

        It has left everything by then.
        """
        self.on_disconnect.append(_check_async(observer))
        return observer

    def include(self, other: "CommandRouter", *, replace: bool = False) -> None:
        """Take over all that another router collected.

        With ``replace``, its commands replace those of the same ``type``.
        """
        if replace:
            types = {_type_of(model) for model in other.handlers}
            kept = {m: handler for m, handler in self.handlers.items() if _type_of(m) not in types}
            self.handlers = kept
        for model, handler in other.handlers.items():
            self._add(model, handler)
        self.begin = other.begin or self.begin
        self.failures |= other.failures
        self.on_connect += other.on_connect
        self.on_disconnect += other.on_disconnect

    def _add(self, model: type[Command], handler: Handler[Any]) -> None:
        if model in self.handlers:
            msg = f"{model.__name__} has a handler already"
            raise ValueError(msg)
        self.handlers[model] = _check_async(handler)


def _type_of(model: type[Command]) -> object:
    return get_args(model.model_fields["type"].annotation)


def _check_async(function: F) -> F:
    if not iscoroutinefunction(function):
        msg = f"{function!r} must be declared with async def"
        raise TypeError(msg)
    return function


class Dispatcher:
    """Validates each frame once, against all commands of a router, and calls the handler."""

    def __init__(self, router: CommandRouter, metrics: Metrics, timeout_s: float) -> None:
        models: Any = reduce(or_, router.handlers)
        commands: TypeAdapter[Any] = TypeAdapter(Annotated[models, Field(discriminator="type")])
        self._validator = commands.validator
        self._handlers = router.handlers
        self._failures = EXPECTED | router.failures
        self._timeout_s = timeout_s
        self._handled = metrics.count("commands", "Commands that clients gave.")
        self._failed = metrics.count_by(
            ("code",),
            "command_errors",
            "Commands that were answered with an error.",
            known=((code,) for code in declared(CommandError, "code", str)),
        )

    async def dispatch(
        self, service: Service, connection: Connection, frame: str
    ) -> asyncio.Future[Any] | None:
        """Handle one frame and answer it. Nothing that a client sends makes this raise.

        If the answer comes later, returns what it waits for. Closes a connection on which too much
        comes that is not worth an answer.
        """
        self._handled.add()
        try:
            connection.conduct.pace(frame)
            command = self._validator.validate_json(frame)
        except Exception as fault:
            self._refuse_frame(connection, frame, fault)
            return None
        connection.conduct.errors_in_a_row = 0
        try:
            call = self._handlers[type(command)](service, connection, command)
            answer = await connection.guard.run(call)
            if isinstance(answer, Later):
                if not answer.passed_on.done():
                    self._answer_later(connection, command, answer)
                    return answer.passed_on
                answer = answer.reply()
            _answer(connection, command, answer)
        except Exception as failure:
            self._fail(connection, command, failure)
        return None

    def _answer_later(self, connection: Connection, command: Command, later: Later) -> None:
        def answer(passed_on: asyncio.Future[Any]) -> None:
            deadline.cancel()
            try:
                _answer(connection, command, later.reply())
            except FAILURES as failure:
                self._fail(connection, command, failure)

        def give_up() -> None:
            later.passed_on.remove_done_callback(answer)
            self._fail(connection, command, TimedOut())

        deadline = asyncio.get_running_loop().call_later(self._timeout_s, give_up)
        later.passed_on.add_done_callback(answer)

    def _refuse_frame(self, connection: Connection, frame: str, fault: Exception) -> None:
        if isinstance(fault, Rejected):
            connection.close(fault.close_as)
        elif isinstance(fault, CommandError):
            self._refuse(connection, fault, _saved_id(frame))
        elif isinstance(fault, ValidationError):
            self._refuse(connection, _command_error(fault), _saved_id(frame))
            try:
                connection.conduct.count_error()
            except Rejected as rejection:
                connection.close(rejection.close_as)
        else:  # a validator of the team's has raised it
            log.error("validator failed", exc_info=fault)
            self._refuse(connection, FAILED, _saved_id(frame))

    def _fail(self, connection: Connection, command: Command, failure: BaseException) -> None:
        if isinstance(failure, ConnectionEnded):
            return  # nobody is there to be told
        if isinstance(failure, Rejected):
            connection.close(failure.close_as)
            return
        if isinstance(failure, CommandError):
            refusal = failure
        else:
            refusal = self._expected(failure) or FAILED
            log.error("handler failed", type=command.type, code=refusal.code, exc_info=failure)
        self._refuse(connection, refusal, command.id)

    def _expected(self, failure: BaseException) -> CommandError | None:
        kinds = (kind for kind in type(failure).__mro__ if kind in self._failures)
        return next((self._failures[kind] for kind in kinds), None)

    def _refuse(
        self, connection: Connection, refusal: CommandError, command_id: str | None
    ) -> None:
        self._failed.add(refusal.code)
        if connection.conduct.is_first_refusal(refusal.code):
            log.info("commands refused", code=refusal.code)
        connection.send(refusal.reply(command_id))


def _answer(connection: Connection, command: Command, answer: Reply | Followed | None) -> None:
    following: Sequence[ServerFrame] = ()
    if isinstance(answer, Followed):
        reply: Reply | None = answer.reply
        following = answer.frames
    else:
        reply = answer
    if command.id is None and (reply is None or reply.only_with_id):
        if following:
            connection.send(*following)
        return
    reply = reply or Ok()
    reply.id = command.id
    connection.send(reply, *following)


def _command_error(failure: ValidationError) -> CommandError:
    error = failure.errors(include_url=False, include_input=False)[0]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, CommandError):
        return cause
    if error["type"] == "union_tag_invalid":
        return UnknownType("no command has this type")
    # The first part of the location is the type, which the client knows; the last part of a
    # surplus field's is the client's own text.
    end = -1 if error["type"] == "extra_forbidden" else None
    field = ".".join(str(part) for part in error["loc"][1:end])
    return BadRequest(f"{field}: {error['msg']}" if field else error["msg"])


def _saved_id(frame: str) -> str | None:
    try:
        return CommandHead.model_validate_json(frame).id
    except ValidationError:
        return None
