"""Identity of a user, and the interface of everything that authenticates one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from starlette.requests import HTTPConnection


@dataclass(frozen=True, slots=True)
class Identity:
    """A user, until when their credentials hold, and what else these say.

    ``expires_at`` is in Unix seconds, null for good.
    """

    user: str
    expires_at: float | None = None
    claims: Mapping[str, Any] = field(default_factory=dict)


class Authenticator(ABC):
    """Turns a handshake, or an HTTP request, into an identity."""

    needs_origin: ClassVar[bool] = False
    """Whether handshakes without an ``Origin`` header are refused."""

    async def run(self) -> None:
        """Do the background work of the authenticator; there is none by default."""
        return

    @abstractmethod
    async def authenticate(self, handshake: HTTPConnection) -> Identity:
        """Check the credentials in the handshake's headers, cookies or query.

        Raises:
            Unauthorized: they are missing or invalid.

        """
