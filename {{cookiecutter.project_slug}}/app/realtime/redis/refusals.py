"""What a server of Redis refuses, and whether waiting helps."""

import re

from redis.exceptions import AuthenticationError, AuthorizationError, ResponseError

from ..errors import Misconfigured

HOPELESS = {
    r"DB index|SELECT": "the server refuses the database",
    r"read only replica": "the server is a replica, which takes no writes; name the primary",
    r"(?i)unknown (redis )?command": "the server lacks a command; it is older than Redis 6.2",
    r"permissions|can't (run|access)": "the user lacks a permission; docs/operating.md lists them",
}
"""What a server answers that does not suit, and what the log then says."""

REFUSING = re.compile(r"permissions|can't (run|access)|used memory|MISCONF|NOREPLICAS")
"""What a server answers that is the right one, but does not do its work."""


def is_temporary(refusal: ResponseError) -> bool:
    """Return whether the server is the right one, and may do its work later."""
    return REFUSING.search(str(refusal)) is not None


def misconfigured(failure: BaseException) -> Misconfigured | None:
    """Return why waiting does not help, null if it may."""
    if isinstance(failure, Misconfigured):
        return failure
    # The client wraps what the server says to a newcomer.
    for each in (failure, failure.__cause__):
        if isinstance(each, AuthenticationError | AuthorizationError):
            return Misconfigured(f"REDIS_URL: the server refuses the user or password: {each}")
        for answer, reason in HOPELESS.items():
            if isinstance(each, ResponseError) and re.search(answer, str(each)):
                return Misconfigured(f"REDIS_URL: {reason}: {each}")
    return None
