"""The dispatcher: validates a client's frame, calls the command's handler and sends the answer."""

import asyncio
import json
from collections.abc import Collection
from contextlib import suppress
from functools import reduce
from operator import or_
from time import monotonic
from typing import Annotated, Any

import structlog
from pydantic import Field, TypeAdapter, ValidationError

from ..connections.connection import Connection
from ..connections.guard import sole_failure
from ..errors import (
    BadRequest,
    CommandError,
    ConnectionEnded,
    InternalError,
    Rejected,
    TimedOut,
    TooManyErrors,
    Unavailable,
    UnknownType,
    declared,
)
from ..limits.budget import FREE_ANSWER_BYTES
from ..metrics import OTHER, Metrics
from ..protocol import Command, CommandHead, Ok, Ping, Pong, Reply
from ..service import Service
from ..tracing import traced
from ..wire.frame import encode
from .router import CommandRouter, types_of
from .schemas import check_strict, field_names

log = structlog.stdlib.get_logger(__name__)

MAX_ERRORS_LISTED = 20
"""A frame with more errors gets a general message: pydantic can only list all of them at once."""

DURATIONS_S = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)

NOT_TIMED = (Ping, Pong)
"""Commands that are so quick and so frequent that even reading a clock would cost too much."""

REFUSED = "refused"
"""In metrics, the type of frames that are not valid commands or exceed a rate limit."""

FAILED = InternalError("the command failed inside the service")

EXPECTED: dict[type[Exception], CommandError] = {
    OSError: Unavailable("something that the service needs does not work now"),
}
"""Answers to exceptions of any handler; an `OSError` may be a failed connection or a timeout."""


class Dispatcher:
    """Handles the commands of all connections."""

    def __init__(self, router: CommandRouter, metrics: Metrics, timeout_s: float) -> None:
        models: Any = reduce(or_, router.handlers)
        commands: TypeAdapter[Any] = TypeAdapter(Annotated[models, Field(discriminator="type")])
        check_strict(commands.core_schema)
        self._fields = frozenset(field_names(commands.core_schema))
        self._validator = commands.validator
        self.failures = EXPECTED | router.failures
        self._timeout_s = timeout_s
        types = {name: model for model in router.handlers for name in types_of(model)}
        if REFUSED in types:
            raise ValueError(f"no command may have the type {REFUSED!r}, which metrics use")
        self._untraced = {name: router.handlers[model] for name, model in types.items()}
        self._handlers = self._untraced
        self._durations = metrics.histograms(
            "command_duration_seconds",
            "How long commands took, from the start of the handler to the answer.",
            DURATIONS_S,
            "type",
            [name for name, model in types.items() if model not in NOT_TIMED],
        )
        # Plain numbers by type, which are faster to increase than counters
        self._received = dict.fromkeys((*types, REFUSED), 0)
        self._received_bytes = self._received.copy()
        metrics.watch_counts("commands", "Commands received.", "type", lambda: self._received)
        metrics.watch_counts(
            "received_bytes", "Bytes of commands.", "type", lambda: self._received_bytes
        )
        self._failure_counter = metrics.counter(
            "command_failures",
            "Commands that failed inside the service: with a status of 500 or more.",
            labels=("type",),
            known=((name,) for name in types),
        )
        self._error_codes = declared(CommandError, "code", str)
        self._error_counter = metrics.counter(
            "command_errors",
            "Commands answered with an error.",
            labels=("code",),
            known=((code,) for code in (*sorted(self._error_codes), OTHER)),
        )

    def trace(self) -> None:
        """Trace all commands from now on. Idempotent."""
        handlers = self._untraced.items()
        self._handlers = {name: traced(handler, self._mapped) for name, handler in handlers}

    async def dispatch(
        self, service: Service, connection: Connection, frame: str
    ) -> asyncio.Future[Any] | None:
        """Handle one frame and answer it. No frame makes this raise, whatever it contains.

        Returns the handler's future if the answer must wait for it, otherwise None.
        """
        try:
            size_bytes = connection.limits.pay(frame)
            command = self._validator.validate_json(frame)
        except Exception as fault:
            self._received[REFUSED] += 1
            self._received_bytes[REFUSED] += len(frame.encode())
            self._refuse_frame(connection, frame, fault)
            return None
        connection.limits.errors_in_a_row = 0
        kind = command.type
        self._received[kind] += 1
        self._received_bytes[kind] += size_bytes
        durations = self._durations.get(kind)
        begin = monotonic() if durations else 0.0
        try:
            with connection.guard:
                answer = await self._handlers[kind](service, connection, command)
                if isinstance(answer, asyncio.Future):
                    if not answer.done():
                        self._answer_later(connection, command, answer, begin)
                        return answer
                    answer = answer.result()
            _answer(connection, command, answer)
        except Exception as failure:
            self._fail(connection, command, failure)
            answer = None
        if durations:
            durations.observe(monotonic() - begin)
        if answer is not None and answer.followed_by:
            # Otherwise many such answers could pile up in memory for a slow reader.
            await service.delivery.catch_up()
            with suppress(TimedOut, ConnectionEnded), connection.guard:
                await connection.drain()
        return None

    def _answer_later(
        self, connection: Connection, command: Command, future: asyncio.Future[Any], begin: float
    ) -> None:
        def answer(future: asyncio.Future[Any]) -> None:
            deadline.cancel()
            try:
                _answer(connection, command, future.result())
            except BaseException as failure:
                self._fail(connection, command, sole_failure(failure))
            self._note_duration(command, begin)

        def give_up() -> None:
            if future.done():
                return  # the callback `answer` is scheduled already
            future.remove_done_callback(answer)
            future.cancel()
            self._fail(connection, command, TimedOut())
            self._note_duration(command, begin)

        deadline = asyncio.get_running_loop().call_later(self._timeout_s, give_up)
        future.add_done_callback(answer)

    def _note_duration(self, command: Command, begin: float) -> None:
        if durations := self._durations.get(command.type):
            durations.observe(monotonic() - begin)

    def _refuse_frame(self, connection: Connection, frame: str, fault: Exception) -> None:
        if isinstance(fault, Rejected):
            connection.reject(fault)
        elif isinstance(fault, CommandError):
            self._refuse(connection, fault, _id_of(frame))
        elif isinstance(fault, ValidationError):
            self._refuse(connection, _error_of(fault, self._fields), _id_of(frame))
            if connection.limits.count_error():
                connection.reject(TooManyErrors())
        else:
            log.error("validator failed", exc_info=fault)
            self._refuse(connection, FAILED, _id_of(frame))

    def _fail(self, connection: Connection, command: Command, failure: BaseException) -> None:
        if isinstance(failure, ConnectionEnded):
            return
        if isinstance(failure, Rejected):
            connection.reject(failure)
            return
        mapped = self._mapped(failure)
        refusal = mapped if isinstance(mapped, CommandError) else FAILED
        if refusal is not failure:
            log.error("handler failed", type=command.type, code=refusal.code, exc_info=failure)
        if refusal.status >= 500:
            self._failure_counter.labels(command.type).inc()
        self._refuse(connection, refusal, command.id)

    def _mapped(self, failure: BaseException | None) -> BaseException | None:
        """Return the error to which a failure is mapped, or else the failure."""
        sole = failure and sole_failure(failure)
        if isinstance(sole, CommandError):
            return sole
        kinds = (kind for kind in type(sole).__mro__ if kind in self.failures)
        return next((self.failures[kind] for kind in kinds), sole)

    def _refuse(
        self, connection: Connection, refusal: CommandError, command_id: str | None
    ) -> None:
        code = refusal.code
        self._error_counter.labels(code if code in self._error_codes else OTHER).inc()
        if connection.limits.is_first_refusal(code):
            log.info("commands refused", code=code)
        connection.send(refusal.reply(command_id))


def _answer(connection: Connection, command: Command, reply: Reply | None) -> None:
    if reply is None:
        if command.id is None:
            return
        reply = Ok()
    elif not isinstance(reply, Reply):
        kind = type(reply).__name__  # not the value, which may be the client's
        raise TypeError(f"a handler returns a Reply, a future of one, or None; not a {kind}")
    frames = reply.followed_by
    if command.id is not None or not reply.only_with_id:
        reply.id = command.id
        frames = (encode(reply), *frames)
    if frames:
        size_bytes = sum(map(len, frames))
        if size_bytes > FREE_ANSWER_BYTES:
            connection.limits.charge(size_bytes)
        connection.send_encoded(*frames)


def _error_of(failure: ValidationError, fields: Collection[str]) -> CommandError:
    if failure.error_count() > MAX_ERRORS_LISTED:
        return BadRequest("many fields are unknown or invalid")
    error = failure.errors(include_url=False, include_input=False)[0]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, CommandError):
        return cause
    reason = error["msg"]
    if error["type"] == "union_tag_invalid":
        if not error["loc"]:
            return UnknownType("no command has this type")
        reason = f"Input should have one of the tags {error['ctx']['expected_tags']}"
    # The location starts with the type. The names of unknown fields, and the keys of a `dict`, are
    # the client's own text: only names that a command declares are repeated.
    known = (part for part in error["loc"][1:] if isinstance(part, int) or part in fields)
    field = ".".join(map(str, known))
    return BadRequest(f"{field}: {reason}" if field else reason)


def _id_of(frame: str) -> str | None:
    try:
        return CommandHead.model_validate_json(frame).id
    except ValidationError as failure:
        if failure.errors(include_url=False, include_input=False)[0]["type"] != "json_invalid":
            return None
    # The standard library is slower, but also reads a lone surrogate, and deeper nesting.
    with suppress(ValueError, RecursionError):
        return CommandHead.model_validate(json.loads(frame, parse_int=float)).id
    return None
