"""What can go wrong. Each class is one failure and says what the client is told.

::

    ServiceError
    ├── Misconfigured           the process stops, and says why
    ├── WrongThread             called from outside of the event loop
    ├── ConnectionEnded         the team's code was cancelled with its connection
    ├── TeamCodeFailed          the team's code raised what is no `Exception`
    ├── Refused                 before the upgrade: an HTTP status
    │   ├── OriginRefused       403
    │   ├── TooManyFromAddress  429
    │   ├── TooManyHandshakesFromAddress  429
    │   ├── TooManyHandshakes   503
    │   ├── HouseFull           503
    │   ├── NotStarted          503
    │   └── Stopping            503
    ├── Rejected                after the upgrade: a close code
    │   ├── Unauthorized        4500
    │   ├── AuthenticatorDown   1013
    │   ├── AuthenticatorFailed 1011
    │   ├── TooManyConnections  1013
    │   ├── Flood               4013
    │   └── TooManyErrors       4509
    └── CommandError            an `error` frame; the connection stays
        ├── BadRequest          bad_request
        ├── UnknownType         unknown_type
        ├── RateLimited         rate_limited, worth a retry
        ├── Forbidden           forbidden
        ├── LimitExceeded       limit_exceeded
        ├── Unavailable         unavailable, worth a retry
        │   └── TimedOut        unavailable, worth a retry
        └── InternalError       internal

Messages are for the other side to read: they never repeat its input.
"""

from typing import ClassVar, TypeVar

from .protocol import (
    FLOOD,
    INTERNAL_ERROR,
    TOO_MANY_ERRORS,
    TRY_AGAIN_LATER,
    UNAUTHORIZED,
    Close,
    ErrorReply,
)

V = TypeVar("V")


class ServiceError(Exception):
    """Everything the service refuses on purpose."""


def declared(base: type[ServiceError], attribute: str, kind: type[V]) -> set[V]:
    """Return the values that a class attribute has in all subclasses, a team's own among them."""
    values = set()
    for subclass in base.__subclasses__():
        value = getattr(subclass, attribute, None)
        if isinstance(value, kind):
            values.add(value)
        values |= declared(subclass, attribute, kind)
    return values


class Misconfigured(ServiceError):
    """The service cannot work as it is set up, and no waiting will help."""


class WrongThread(ServiceError, RuntimeError):
    """The event loop's objects were used from another thread. Nothing has changed."""


class ConnectionEnded(ServiceError):
    """The connection ended while the team's code was running for it."""


class TeamCodeFailed(ServiceError):
    """The team's code raised a `CancelledError` or `SystemExit` of its own; see the cause."""


class Refused(ServiceError):
    """The handshake is answered with an HTTP status instead of an upgrade."""

    status: ClassVar[int]
    reason: ClassVar[str]
    """What the log says; the client has to make do with the status."""
    retry_after_s: ClassVar[int | None] = None


class OriginRefused(Refused):
    """A browser came from a site that is not on the allow-list (RFC 6455 §10.2)."""

    status = 403
    reason = "the origin is not allowed"


class TooManyFromAddress(Refused):
    """One address has as many connections as one may have (RFC 6585 §4)."""

    status = 429
    reason = "too many connections from this address"
    retry_after_s = 5


class TooManyHandshakesFromAddress(Refused):
    """One address connects faster than one may (RFC 6585 §4)."""

    status = 429
    reason = "too many handshakes at a time from this address"
    retry_after_s = 1


class TooManyHandshakes(Refused):
    """Newcomers come faster than the service lets them in."""

    status = 503
    reason = "too many handshakes at a time"
    retry_after_s = 1


class HouseFull(Refused):
    """The service holds as many connections as it may."""

    status = 503
    reason = "the house is full"
    retry_after_s = 5


class NotStarted(Refused):
    """The application's lifespan does not run: whatever it is mounted in must run it."""

    status = 503
    reason = "the lifespan of the application does not run; the application around it must run it"
    retry_after_s = 5


class Stopping(Refused):
    """The service is about to stop."""

    status = 503
    reason = "the service stops"
    retry_after_s = 5


class Rejected(ServiceError):
    """The connection is accepted, told why, and closed: a browser sees no HTTP status.

    ``status`` is for HTTP routes, which can send one. A message is for the log, and must not repeat
    anything of the credentials.
    """

    close_as: ClassVar[Close]
    status: ClassVar[int] = 503

    @property
    def cause(self) -> str:
        """Why, for the log: the message, or the class of the exception behind this one.

        That one's own text is never shown, since it may repeat what the client has sent.
        """
        return str(self) or type(self.__cause__ or self).__name__


class Unauthorized(Rejected):
    """Credentials are missing or invalid."""

    close_as = UNAUTHORIZED
    status = 401


class AuthenticatorDown(Rejected):
    """Whether the credentials are good cannot be told just now."""

    close_as = TRY_AGAIN_LATER


class AuthenticatorFailed(Rejected):
    """The authenticator has raised an unexpected exception."""

    close_as = INTERNAL_ERROR
    status = 500


class TooManyConnections(Rejected):
    """The user has as many connections as one user may have."""

    close_as = TRY_AGAIN_LATER


class Flood(Rejected):
    """The client goes on too fast, although it was told."""

    close_as = FLOOD


class TooManyErrors(Rejected):
    """The client sends nothing but what is no valid command."""

    close_as = TOO_MANY_ERRORS


class CommandError(ServiceError):
    """One command failed; the connection goes on."""

    code: ClassVar[str]
    retry: ClassVar[bool] = False

    def reply(self, command_id: str | None) -> ErrorReply:
        """Return the frame that tells the client."""
        return ErrorReply(id=command_id, code=self.code, message=str(self), retry=self.retry)


class BadRequest(CommandError):
    """The frame is not a valid command."""

    code = "bad_request"


class UnknownType(CommandError):
    """No handler is registered for the frame's ``type``."""

    code = "unknown_type"


class RateLimited(CommandError):
    """The client sends faster than it may."""

    code = "rate_limited"
    retry = True


class Forbidden(CommandError):
    """The user may not do that."""

    code = "forbidden"


class LimitExceeded(CommandError):
    """The connection already has as much as it may have."""

    code = "limit_exceeded"


class Unavailable(CommandError):
    """Something behind the service does not answer just now."""

    code = "unavailable"
    retry = True


class TimedOut(Unavailable):
    """The command took longer than `HANDLER_TIMEOUT_S` and was cancelled."""

    def __init__(self) -> None:
        super().__init__("the command took too long")


class InternalError(CommandError):
    """A handler failed; the log says why, the client does not learn it."""

    code = "internal"
