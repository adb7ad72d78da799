"""The wire protocol: every frame both sides send, and why connections close.

A frame is one JSON object with a ``type``. A client may add an ``id`` to any command and then gets
exactly one ``ok`` or ``error`` with that ``id``; without an ``id`` it hears of errors only.

Pure: nothing here knows asyncio or FastAPI.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
)
from pydantic_core import PydanticCustomError

PROTOCOL_VERSION = 1

SUBPROTOCOL = "ws.v1"
"""The one value of ``Sec-WebSocket-Protocol`` that the server ever echoes (RFC 6455 §4.2.2)."""


class Close(NamedTuple):
    """Why a connection ends: a close code and a reason of at most 123 bytes (RFC 6455 §5.5.1).

    Codes 4000-4499 invite the client to reconnect, 4500-4999 tell it not to.
    """

    code: int
    reason: str


class ClientClose(Close):
    """A close that was the client's: its own close frame, its breach of the protocol, its loss."""

    __slots__ = ()


NO_STATUS = 1005
"""Stands for a close frame without a code; it is never sent (RFC 6455 §7.4.1)."""
ABNORMAL_CLOSURE = 1006
"""Stands for an end without a close frame; it is never sent (RFC 6455 §7.4.1)."""

CLIENT_CODES = (1000, 1001, 1002, NO_STATUS, 1006, 1007, 1009)
"""Codes of a `ClientClose` that mean something here (RFC 6455 §7.4.1).

1000 and 1001 are a client's own; 1002, 1007 and 1009 the answer to its breach of the protocol; 1006
is a connection that was lost.
"""

UNSUPPORTED_DATA = Close(1003, "binary frames are not supported")
INTERNAL_ERROR = Close(1011, "internal error")
SERVICE_RESTART = Close(1012, "the service restarts")
TRY_AGAIN_LATER = Close(1013, "try again later")
EXPIRED = Close(4005, "expired")
SLOW_CONSUMER = Close(4008, "slow_consumer")
# {% if cookiecutter.heartbeat %}
NO_PONG = Close(4012, "no_pong")
# {% endif %}
FLOOD = Close(4013, "flood")
UNAUTHORIZED = Close(4500, "unauthorized")
REVOKED = Close(4503, "revoked")
REPLACED = Close(4504, "replaced")
TOO_MANY_ERRORS = Close(4509, "too_many_errors")


def _refuse_non_finite(value: JsonValue) -> JsonValue:
    # JSON has no NaN and no Infinity (RFC 8259 §6), yet the parser takes both, and 1e400.
    if isinstance(value, dict):
        for item in value.values():
            if not isinstance(item, str):  # as most are
                _refuse_non_finite(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_non_finite(item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("finite_number", "Numbers must be finite")
    return value


Data = Annotated[JsonValue, AfterValidator(_refuse_non_finite)]
"""Any JSON value that a client or the team's backend wants to have delivered."""

UserName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
CommandId = Annotated[str, StringConstraints(min_length=1, max_length=64)]

STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)


class Command(BaseModel):
    """What a client sends. Subclasses add a ``type`` and their fields."""

    model_config = STRICT

    type: str
    id: CommandId | None = None


class Ping(Command):
    """Ask for a ``pong``."""

    type: Literal["ping"]


class Pong(Command):
    """Answer the server's ``ping``."""

    type: Literal["pong"]


class Send(Command):
    """Send ``data`` to every connection of one user."""

    type: Literal["send"]
    to: UserName
    data: Data


class Broadcast(Command):
    """Send ``data`` to every connection; to this one only with ``echo``."""

    type: Literal["broadcast"]
    data: Data
    echo: bool = False


class CommandHead(BaseModel):
    """What can be saved of a frame that is no valid command: the ``id`` to answer to."""

    id: CommandId | None = None


class _Encoders(dict[type[Any], Callable[[Any], bytes]]):
    """What makes JSON of each kind of frame, made when it is first needed."""

    def __missing__(self, kind: type[Any]) -> Callable[[Any], bytes]:
        encoder = self[kind] = TypeAdapter(kind).serializer.to_json
        return encoder


_encoders = _Encoders()


@dataclass(slots=True, kw_only=True)
class ServerFrame:
    """What the server sends: plain data, since only what strangers send needs to be validated."""

    __pydantic_config__ = ConfigDict(serialize_by_alias=True)

    type: str

    def encode(self) -> bytes:
        """Return the frame's JSON as UTF-8."""
        return _encoders[type(self)](self)


@dataclass(slots=True, kw_only=True)
class Reply(ServerFrame):
    """The answer to one command."""

    only_with_id: ClassVar[bool] = True

    id: str | None = None


@dataclass(slots=True, kw_only=True)
class Ok(Reply):
    """The command was accepted. Subclasses add what it yielded."""

    type: Literal["ok"] = "ok"


@dataclass(slots=True, kw_only=True)
class PongReply(Reply):
    """The answer to ``ping``, which comes whether or not the client gave an ``id``."""

    only_with_id: ClassVar[bool] = False

    type: Literal["pong"] = "pong"
    id: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None


@dataclass(slots=True, kw_only=True)
class ErrorReply(Reply):
    """The command was refused; ``retry`` says whether the same command may succeed later."""

    only_with_id: ClassVar[bool] = False

    type: Literal["error"] = "error"
    code: str
    message: str
    retry: bool


@dataclass(slots=True, kw_only=True)
class HeartbeatTerms:
    """How often the server pings, and how long it then waits for any frame."""

    interval_s: float
    timeout_s: float


@dataclass(slots=True, kw_only=True)
class Welcome(ServerFrame):
    """The first frame of every connection."""

    type: Literal["welcome"] = "welcome"
    protocol: int = PROTOCOL_VERSION
    connection: str
    user: str
    heartbeat: HeartbeatTerms | None
    limits: dict[str, int]
    expires_at: float | None


@dataclass(slots=True)
class Message(ServerFrame):
    """Data from another user, or from the server when ``from`` is null."""

    type: Literal["message"] = field(default="message", kw_only=True)
    sender: Annotated[str | None, Field(serialization_alias="from")]
    data: JsonValue


@dataclass(slots=True)
class DirectMessage(Message):
    """A message to one user or to everybody."""

    to: Literal["user", "all"]
