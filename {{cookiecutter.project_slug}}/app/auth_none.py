"""No authentication: each connection is a guest of its own."""

import secrets

import structlog
from starlette.requests import HTTPConnection

from .auth import Identity
from .settings import Settings, SettingsPart

log = structlog.stdlib.get_logger(__name__)


class AuthSettings(SettingsPart):
    """Guests bring no credentials: there is nothing to set."""


class GuestAuthenticator:
    """Lets everybody in."""

    def __init__(self, settings: Settings) -> None:
        if settings.environment != "development":
            log.warning("anybody can connect: this service has no authentication")

    async def authenticate(self, handshake: HTTPConnection) -> Identity:
        """Return a new guest."""
        return Identity(f"guest-{secrets.token_hex(8)}")
