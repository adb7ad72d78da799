"""Authentication of clients. Adapt it to your users."""

from starlette.requests import HTTPConnection

from . import realtime
from .realtime import Identity


class Authenticator(realtime.Authenticator):
    """Turns the credentials of a handshake, or of an HTTP request, into an identity."""

    async def authenticate(self, handshake: HTTPConnection) -> Identity:
        """Return the user who connects, or raise `Unauthorized`."""
        return await super().authenticate(handshake)
