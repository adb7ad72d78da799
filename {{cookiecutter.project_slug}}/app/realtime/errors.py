"""Exceptions, and how each is reported to the client.

A `Refused` handshake gets an HTTP status, a `Rejected` connection a close code, and a failed
command an ``error`` frame, see `CommandError`. If an HTTP route raises one of these, the response
has its ``status``. Messages never repeat the client's input.
"""

from collections.abc import Iterator
from contextlib import suppress
from http.client import responses
from typing import Any, ClassVar, Self, TypeVar

from websockets import frames
from websockets.exceptions import ProtocolError

from . import protocol
from .protocol import (
    EXPIRED,
    FLOOD,
    INTERNAL_ERROR,
    REVOKED,
    TOO_MANY_ERRORS,
    TRY_AGAIN_LATER,
    UNAUTHORIZED,
    Close,
    ErrorReply,
)

V = TypeVar("V")

PROBLEM_TYPE = "application/problem+json"

MAX_REASON_BYTES = 123
"""Size of the reason in a close frame (RFC 6455 §5.5), after the code."""
CODE_BYTES = 2


class ServiceError(Exception):
    """Base of the engine's exceptions."""

    needs: ClassVar[str | None] = None
    """The name of the attribute that a subclass must define before it can be raised."""

    def __new__(cls, *args: Any, **more: Any) -> Self:
        """Raise `TypeError` if the class does not define the attribute named in ``needs``."""
        if cls.needs is not None and not hasattr(cls, cls.needs):
            raise TypeError(f"{cls.__name__} has no {cls.needs}: raise a subclass that has one")
        return super().__new__(cls, *args, **more)

    @property
    def cause(self) -> str:
        """For the log: the message, or else the class of the exception that caused this one.

        The text of that exception is left out, since it may repeat the client's input.
        """
        return str(self) or type(self.__cause__ or self).__name__


def problem(status: int, detail: object, **more: object) -> dict[str, object]:
    """Return the body of an HTTP error response, of the media type `PROBLEM_TYPE` (RFC 9457).

    FastAPI allows any JSON as the detail. Clients ignore a detail that is not text (§3.1).
    """
    title = responses.get(status, "")
    return {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}


def subclasses(base: type[V]) -> Iterator[type[V]]:
    """Yield all subclasses, your own included."""
    for subclass in base.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def declared(base: type[ServiceError], attribute: str, kind: type[V]) -> set[V]:
    """Return the values of a class attribute in all subclasses."""
    values = (getattr(subclass, attribute, None) for subclass in subclasses(base))
    return {value for value in values if isinstance(value, kind)}


def check_close(close: Close) -> None:
    """Raise `ValueError` if no close frame can have this code and reason (RFC 6455 §5.5, §7.4)."""
    try:
        size = len(frames.Close(*close).serialize()) - CODE_BYTES
    except ProtocolError as failure:
        raise ValueError(f"close: {failure}") from None
    if size > MAX_REASON_BYTES:
        raise ValueError(f"close: the reason has {size} bytes, more than {MAX_REASON_BYTES}")


def _is_sendable(close: object) -> bool:
    match close:
        case Close(int(code), str()):
            with suppress(ValueError):  # it cannot be sent
                check_close(close)
                return 4000 <= code <= 4999 or close in {INTERNAL_ERROR, TRY_AGAIN_LATER}
    return False


class Misconfigured(ServiceError):
    """The settings do not work. The process stops, since a retry cannot succeed."""


class WrongThread(ServiceError, RuntimeError):
    """A method was called outside the event loop's thread. It changed nothing."""

    def __init__(self) -> None:
        super().__init__(
            "this works only in the event loop's thread: make the route or the job `async def`,"
            " or call it by `asyncio.run_coroutine_threadsafe`"
        )


class ConnectionEnded(ServiceError):
    """The connection ended while the team's code was running for it."""


class TeamCodeFailed(ServiceError):
    """The team's code raised a `CancelledError` or `SystemExit` of its own, which is the cause."""


class Refused(ServiceError):
    """The handshake is answered with an HTTP status (RFC 6455 §10.2, RFC 6585 §4).

    ``headers`` tell clients when to try again, if a retry may succeed.
    """

    REASONS: ClassVar[dict[str, tuple[int, int | None]]] = {
        "at capacity": (503, 5),
        "no such path": (404, None),
        "origin not allowed": (403, None),
        "the lifespan does not run": (503, 5),
        "the service is stopping": (503, 5),
        "too many connections from this address": (429, 5),
        "too many handshakes": (503, 1),
        "too many handshakes from this address": (429, 1),
    }
    """Status, and seconds until a retry, by reason. The log and the metrics show the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status, pause_s = self.REASONS[reason]
        self.headers = {} if pause_s is None else {"Retry-After": str(pause_s)}


class Rejected(ServiceError):
    """The connection is accepted and closed with a code, which browsers can read.

    The message is logged as ``cause``; it must not repeat credentials.
    """

    needs: ClassVar = "close_as"
    close_as: ClassVar[Close]
    status: ClassVar[int] = 503

    def __init_subclass__(cls, **options: Any) -> None:
        """Raise `TypeError` unless `close_as` can be sent (RFC 6455 §5.5, §7.4)."""
        super().__init_subclass__(**options)
        if "close_as" in vars(cls) and not _is_sendable(cls.close_as):
            codes = "a code of 4000 to 4999, or that of INTERNAL_ERROR or TRY_AGAIN_LATER,"
            needed = f"{codes} and a reason of at most {MAX_REASON_BYTES} bytes"
            raise TypeError(f"{cls.__name__}: close_as must be a Close with {needed}")


def close_codes() -> set[Close]:
    """Return each `Close` that the server sends: the protocol's, and those of `Rejected`."""
    constants = {value for value in vars(protocol).values() if isinstance(value, Close)}
    return constants | declared(Rejected, "close_as", Close)


class Unauthorized(Rejected):
    """Credentials are missing or invalid."""

    close_as = UNAUTHORIZED
    status = 401


class Expired(Unauthorized):
    """Credentials have expired."""

    close_as = EXPIRED


class Banned(Rejected):
    """The team's backend has banned the user."""

    close_as = REVOKED
    status = 403


class TooManyConnections(Rejected):
    """The user is at the limit of connections per user."""

    close_as = TRY_AGAIN_LATER


class Flood(Rejected):
    """The client continues to send too fast after refusals."""

    close_as = FLOOD


class TooManyErrors(Rejected):
    """The client has sent too many invalid commands in a row."""

    close_as = TOO_MANY_ERRORS


class CommandError(ServiceError):
    """One command failed. The connection stays open."""

    needs: ClassVar = "code"
    code: ClassVar[str]
    close_as: ClassVar[Close] = INTERNAL_ERROR
    """How an `Unavailable` or `InternalError` closes the connection before its ``welcome``."""
    retry: ClassVar[bool] = False
    status: ClassVar[int] = 400

    def __init_subclass__(cls, **options: Any) -> None:
        """Raise `TypeError` unless `code` is a str."""
        super().__init_subclass__(**options)
        if not isinstance(vars(cls).get("code", ""), str):
            raise TypeError(f"{cls.__name__}: code must be a str")

    def reply(self, command_id: str | None) -> ErrorReply:
        """Return the frame for the client."""
        # With ``?`` in place of lone surrogates, which UTF-8 cannot encode
        message = str(self).encode(errors="replace").decode()
        return ErrorReply(id=command_id, code=self.code, message=message, retry=self.retry)


class BadRequest(CommandError):
    """The frame is not a valid command."""

    code = "bad_request"


class UnknownType(CommandError):
    """No handler is registered for the frame's ``type``."""

    code = "unknown_type"


class TooLarge(CommandError):
    """The message is too large when it is encoded."""

    code = "too_large"
    status = 413


class RateLimited(CommandError):
    """The budget of the client is spent."""

    code = "rate_limited"
    retry = True
    status = 429


class Forbidden(CommandError):
    """The user is not allowed to do this."""

    code = "forbidden"
    status = 403


class LimitExceeded(CommandError):
    """The connection is at a limit."""

    code = "limit_exceeded"
    status = 429


class Unavailable(CommandError):
    """Something that the command needs does not work now."""

    code = "unavailable"
    close_as = TRY_AGAIN_LATER
    retry = True
    status = 503


class TimedOut(Unavailable):
    """The command took longer than ``HANDLER_TIMEOUT_S`` and was cancelled."""

    def __init__(self) -> None:
        super().__init__("the command took too long")


class InternalError(CommandError):
    """A handler failed. The reason is in the log only."""

    code = "internal"
    status = 500
