"""What can go wrong. Each class is one failure and says what the client is told.

::

    ServiceError
    ├── Misconfigured           the process stops, and says why
    ├── Refused                 before the upgrade: an HTTP status
    │   ├── OriginRefused       403
    │   └── HouseFull           503
    ├── Rejected                after the upgrade: a close code
    │   ├── Unauthorized        4500
    │   └── TooManyConnections  1013
    └── CommandError            an `error` frame; the connection stays
        ├── BadRequest          bad_request
        ├── UnknownType         unknown_type
        ├── Forbidden           forbidden
        ├── LimitExceeded       limit_exceeded
        ├── Unavailable         unavailable, worth a retry
        └── InternalError       internal

Messages are for the other side to read: they never repeat its input.
"""

from typing import ClassVar

from .protocol import TRY_AGAIN_LATER, UNAUTHORIZED, Close, ErrorReply


class ServiceError(Exception):
    """Everything the service refuses on purpose."""


class Misconfigured(ServiceError):
    """The service cannot work as it is set up, and no waiting will help."""


class Refused(ServiceError):
    """The handshake is answered with an HTTP status instead of an upgrade."""

    status: ClassVar[int]
    retry_after_s: ClassVar[int | None] = None


class OriginRefused(Refused):
    """A browser came from a site that is not on the allow-list (RFC 6455 §10.2)."""

    status = 403


class HouseFull(Refused):
    """The service holds as many connections as it may, or is about to stop."""

    status = 503
    retry_after_s = 5


class Rejected(ServiceError):
    """The connection is accepted, told why, and closed: a browser sees no HTTP status."""

    close_as: ClassVar[Close]


class Unauthorized(Rejected):
    """Credentials are missing or invalid."""

    close_as = UNAUTHORIZED


class TooManyConnections(Rejected):
    """The user has as many connections as one user may have."""

    close_as = TRY_AGAIN_LATER


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


class InternalError(CommandError):
    """A handler failed; the log says why, the client does not learn it."""

    code = "internal"
