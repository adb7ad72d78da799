"""The wire protocol: the frames of both sides, and the close codes.

A frame is one JSON object with a ``type``. A command with an ``id`` gets exactly one answer with
that ``id``: ``ok``, ``error``, or ``pong`` to a ``ping``. A command without an ``id`` is answered
only if it is a ``ping`` or fails.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import not_
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    JsonValue,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError, core_schema
from typing_extensions import Format, get_annotations

PROTOCOL_VERSION = 1

SUBPROTOCOL = "ws.v1"
"""The only ``Sec-WebSocket-Protocol`` that the server echoes (RFC 6455 §4.2.2)."""


class Close(NamedTuple):
    """Why a connection ends: a close code and a reason of at most 123 bytes (RFC 6455 §5.5.1).

    After codes 4000-4499 a client should reconnect, after 4500-4999 it should not.
    """

    code: int
    reason: str


class ClientClose(Close):
    """An end by the client: its close frame, its protocol error, or a lost connection."""

    __slots__ = ()


NO_STATUS = 1005
"""A close frame without a code; never sent (RFC 6455 §7.4.1)."""
ABNORMAL_CLOSURE = 1006
"""An end without a close frame; never sent (RFC 6455 §7.4.1)."""

CLIENT_CODES = (1000, 1001, 1002, NO_STATUS, ABNORMAL_CLOSURE, 1007, 1009)
"""Codes of a `ClientClose` that are counted separately (RFC 6455 §7.4.1).

The client sends 1000 and 1001; 1002, 1007 and 1009 answer its protocol errors.
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


class Parsed:
    """Marks a `JsonValue` that comes from the JSON parser: its values need no further check."""

    def __get_pydantic_core_schema__(self, *_: object) -> core_schema.CoreSchema:
        """Accept any value."""
        return core_schema.any_schema()


def _refuse_non_finite(value: JsonValue) -> JsonValue:
    # JSON has no NaN or Infinity (RFC 8259 §6). The parser accepts both; 1e400 is read as Infinity.
    unchecked: list[Any] = [value]
    for item in unchecked:
        kind = type(item)  # the parser's values have no subclasses
        if kind is dict:
            unchecked += item.values()
        elif kind is list:
            unchecked += item
        elif kind is float and not math.isfinite(item):
            raise PydanticCustomError("finite_number", "Numbers must be finite")
    return value


Data = Annotated[JsonValue, Parsed(), AfterValidator(_refuse_non_finite)]
"""Any JSON value within the size limit. A plain `JsonValue` may have NaN and Infinity."""


@dataclass(frozen=True, slots=True)
class ErrorMessage:
    """Replaces pydantic's error messages for a type by this one."""

    message: str

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Return the schema of the type with the message."""
        schema = handler(source)
        return core_schema.custom_error_schema(schema, "value", custom_error_message=self.message)


JOINERS = "\u200c\u200d"
"""Invisible, but needed between visible characters in some scripts and in emojis."""

BLANKS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and symbols that look blank."""

VISIBLE = r"[^\p{C}\p{Z}" + BLANKS + "]"
"""Pattern of a visible character: no control, format, unassigned, separator or blank one."""

NAME_RULE = "A user's name has 1 to 128 visible characters"

UserName = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=128,
        pattern=f"^{VISIBLE}(?:(?:{VISIBLE}|[ {JOINERS}])*{VISIBLE})?$",
    ),
    ErrorMessage(NAME_RULE),
    # Without the pattern, since other languages have other regular expressions
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 128, "description": NAME_RULE}),
]
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=64)]

STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class StrictModel(BaseModel):
    """Base of an object within a command: refuses unknown fields, wrong types and NaN."""

    model_config = STRICT


class Command(StrictModel):
    """A client's frame. Subclasses add a ``type`` and their fields."""

    type: str
    id: Identifier | None = None


class Ping(Command):
    """Ask for a ``pong``."""

    type: Literal["ping"]


class Pong(Command):
    """Show that the client is alive."""

    type: Literal["pong"]


class Send(Command):
    """Send ``data`` to all connections of one user; only once if repeated with the same ``key``."""

    type: Literal["send"]
    to: UserName
    data: Data
    key: Identifier | None = None


class Broadcast(Command):
    """Send ``data`` to every connection, including this one if ``echo`` is set."""

    type: Literal["broadcast"]
    data: Data
    echo: bool = False


class CommandHead(BaseModel):
    """The ``id`` of a frame that is otherwise not a valid command."""

    id: Identifier | None = None


# {% if cookiecutter.rooms %}
_engine_types: set[object] = {"gap", "ping", "rejoined", "resync"}
# {% else %}
_engine_types: set[object] = {"ping", "resync"}
# {% endif %}
"""Reserved types: those that client libraries handle or create themselves, and the engine's."""


@dataclass(slots=True, kw_only=True)
class ServerFrame:
    """A frame of the server. A dataclass, since only the frames of clients need validation.

    A frame of your own must not use a ``type`` of the engine's, nor have a field ``id``, by which
    clients recognize answers. Neither rule applies to a `Reply`.
    """

    __pydantic_config__ = ConfigDict(
        serialize_by_alias=True, json_schema_serialization_defaults_required=True
    )

    type: str

    def __init_subclass__(cls, **options: Any) -> None:
        """Raise `TypeError` if clients would mistake a frame of your own for another one."""
        super(ServerFrame, cls).__init_subclass__(**options)
        fields: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            fields |= vars(base).get("__dataclass_fields__", {})
        kind = vars(cls).get("type", fields.get("type"))
        kind = getattr(kind, "default", kind)
        if cls.__module__.startswith(f"{__package__}."):
            _engine_types.add(kind)
        elif not issubclass(cls, Reply):
            if isinstance(kind, str) and kind in _engine_types:
                raise TypeError(f"{cls.__name__}: the type {kind!r} is the engine's; take another")
            if "id" in fields or "id" in get_annotations(cls, format=Format.FORWARDREF):
                raise TypeError(f"{cls.__name__}: rename the field id: only answers have one")


@dataclass(slots=True, kw_only=True)
class Reply(ServerFrame):
    """The answer to one command. Most kinds are sent only if the command has an ``id``."""

    only_with_id: ClassVar[bool] = True

    id: str | None = None
    followed_by: Annotated[Sequence[bytes], Field(exclude=True)] = ()
    """Encoded frames to send right after the reply, before any other frame."""


@dataclass(slots=True, kw_only=True)
class Ok(Reply):
    """The command was accepted."""

    type: Literal["ok"] = "ok"


@dataclass(slots=True, kw_only=True)
class PongReply(Reply):
    """The answer to ``ping``, with or without an ``id``."""

    only_with_id: ClassVar[bool] = False

    type: Literal["pong"] = "pong"
    id: Annotated[str | None, Field(exclude_if=not_)] = None


@dataclass(slots=True, kw_only=True)
class ErrorReply(Reply):
    """The command failed. ``retry`` says whether the same command may succeed later."""

    only_with_id: ClassVar[bool] = False

    type: Literal["error"] = "error"
    code: str
    message: str
    retry: bool


@dataclass(slots=True, kw_only=True)
class HeartbeatTerms:
    """The server pings after ``interval_s`` of silence and waits ``timeout_s`` for any frame."""

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

    sender: Annotated[str | None, Field(serialization_alias="from")]
    data: JsonValue


@dataclass(slots=True)
class DirectMessage(Message):
    """A message to one user or to everybody."""

    type: Literal["message"] = field(default="message", kw_only=True)
    to: Literal["user", "all"]
