"""From a client's frame to the function that handles it, and back to the one answer."""

from collections.abc import Awaitable, Callable
from functools import reduce
from operator import or_
from typing import Annotated, Any, TypeVar

import structlog
from pydantic import Field, TypeAdapter, ValidationError

from .connection import Connection
from .errors import BadRequest, CommandError, InternalError, UnknownType
from .protocol import Command, CommandHead, Ok, Reply
from .service import Service

log = structlog.stdlib.get_logger(__name__)

C = TypeVar("C", bound=Command)
Handler = Callable[[Service, Connection, C], Awaitable[Reply | None]]
Observer = Callable[[Service, Connection], Awaitable[None]]


class CommandRouter:
    """Collects handlers by the command they take, and observers of connections."""

    def __init__(self) -> None:
        self.handlers: dict[type[Command], Handler[Any]] = {}
        self.on_connect: list[Observer] = []
        self.on_disconnect: list[Observer] = []

    def command(self, model: type[C]) -> Callable[[Handler[C]], Handler[C]]:
        """Register a handler: ``async def handler(service, connection, command) -> Reply | None``.

        The client gets what the handler returns; null means a plain `Ok`. To refuse, raise a
        `CommandError`.
        """

        def register(handler: Handler[C]) -> Handler[C]:
            self._add(model, handler)
            return handler

        return register

    def connected(self, observer: Observer) -> Observer:
        """Register a function that runs after ``welcome``."""
        self.on_connect.append(observer)
        return observer

    def disconnected(self, observer: Observer) -> Observer:
        """Register a function that runs when a connection has ended, however it ended."""
        self.on_disconnect.append(observer)
        return observer

    def include(self, other: "CommandRouter") -> None:
        """Take over all that another router collected."""
        for model, handler in other.handlers.items():
            self._add(model, handler)
        self.on_connect += other.on_connect
        self.on_disconnect += other.on_disconnect

    def _add(self, model: type[Command], handler: Handler[Any]) -> None:
        if model in self.handlers:
            msg = f"{model.__name__} has a handler already"
            raise ValueError(msg)
        self.handlers[model] = handler


class Dispatcher:
    """Validates each frame once, against all commands of a router, and calls the handler."""

    def __init__(self, router: CommandRouter) -> None:
        models: Any = reduce(or_, router.handlers)
        self._commands: TypeAdapter[Any] = TypeAdapter(
            Annotated[models, Field(discriminator="type")]
        )
        self._handlers = router.handlers

    async def dispatch(self, service: Service, connection: Connection, frame: str) -> None:
        """Handle one frame and answer it. Nothing that a client sends makes this raise."""
        try:
            command = self._commands.validate_json(frame)
        except ValidationError as invalid:
            connection.send(_command_error(invalid).reply(_saved_id(frame)))
            return
        try:
            reply = await self._handlers[type(command)](service, connection, command) or Ok()
            if command.id is not None or not reply.only_with_id:
                reply.id = command.id
                connection.send(reply)
        except CommandError as refusal:
            connection.send(refusal.reply(command.id))
        except Exception:
            log.exception("handler failed", type=command.type)
            failure = InternalError("the command failed inside the service")
            connection.send(failure.reply(command.id))


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
