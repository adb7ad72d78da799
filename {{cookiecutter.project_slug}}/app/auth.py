"""Who is on the other side: the interface that every authentication style implements."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import HTTPConnection


@dataclass(frozen=True, slots=True)
class Identity:
    """A user, until when their credentials hold, and what else these say.

    ``expires_at`` is in Unix seconds, null for good.
    """

    user: str
    expires_at: float | None = None
    claims: Mapping[str, Any] = field(default_factory=dict)


class Authenticator(Protocol):
    """Turns a handshake into an identity."""

    async def authenticate(self, handshake: HTTPConnection) -> Identity:
        """Check the credentials in the handshake's headers, cookies or query.

        Raises:
            Unauthorized: they are missing or invalid.

        """
