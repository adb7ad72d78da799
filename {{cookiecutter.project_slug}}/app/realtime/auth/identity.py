"""The identity of a user, and the mapping of an authenticator's failures to errors."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import time
from typing import Any

import structlog
from pydantic import TypeAdapter

from ..errors import (
    ConnectionEnded,
    Expired,
    InternalError,
    Refused,
    Rejected,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from ..protocol import UserName

MAX_EXPIRY = 2**53 - 1
"""Larger numbers are not exact in JSON."""

_user_name = TypeAdapter(UserName).validator

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """A user, the time at which their credentials expire, and the claims in the credentials.

    ``expires_at`` is in Unix seconds; None means never. The user's name has 1 to 128 visible
    characters, which may have spaces between them.
    """

    user: str
    expires_at: float | None = None
    claims: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            TypeError: the name is not a string, or the expiry not a finite number.
            Unauthorized: the name is empty or too long, or has invisible characters.
        """
        user, expires_at = self.user, self.expires_at
        has_expiry = isinstance(expires_at, float | int) and abs(expires_at) <= MAX_EXPIRY
        if not isinstance(user, str) or not (has_expiry or expires_at is None):
            raise TypeError("a user's name is a str, and the expiry a finite number or None")
        if not _user_name.isinstance_python(user):
            raise Unauthorized("the user's name is not 1 to 128 visible characters")


def check_identity(identity: object) -> Identity:
    """Check what an authenticator has returned, and return it.

    Raises:
        TypeError: it is no identity.
        Expired: it has expired.
    """
    if not isinstance(identity, Identity):
        raise TypeError(f"authenticate returned {type(identity).__name__}, not an Identity")
    if identity.expires_at is not None and identity.expires_at <= time():
        raise Expired("the credentials have expired")
    return identity


@contextmanager
def authenticating() -> Iterator[None]:
    """Call the authenticator in this context, which turns a failure into one of these errors.

    Raises:
        Refused, Rejected: it does not accept the credentials.
        Unavailable: it took too long, or something that it needs does not work.
        InternalError: it raised an unexpected exception.
    """
    try:
        yield
    except (TimedOut, OSError) as failure:
        log.warning("authenticator down", error=type(failure).__name__)
        raise Unavailable("the credentials cannot be checked now") from failure
    except (Refused, Rejected, Unavailable, ConnectionEnded):
        raise
    except Exception as failure:
        log.exception("authenticator failed")
        raise InternalError("the credentials could not be checked") from failure
