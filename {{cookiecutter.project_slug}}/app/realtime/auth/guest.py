"""No authentication: each connection is a guest with a name of its own."""

import secrets
from typing import ClassVar

import structlog
from starlette.requests import HTTPConnection

from ..fields import SettingsPart
from .identity import Identity

log = structlog.stdlib.get_logger(__name__)


def no_credentials() -> None:
    """Ask for nothing."""


CREDENTIALS = no_credentials
"""How OpenAPI and AsyncAPI describe the credentials."""


class AuthSettings(SettingsPart):
    """Guests have no credentials, so there are no settings."""


class Authenticator:
    """Accepts everybody."""

    needs_origin: ClassVar[bool] = False
    """Whether browsers send the credentials by themselves: then an ``Origin`` is required."""

    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings

    async def run(self) -> None:
        """Warn in production."""
        if self._settings.environment != "development":
            log.warning("no authentication")

    async def authenticate(self, handshake: HTTPConnection) -> Identity:
        """Return a new guest."""
        return Identity(f"guest-{secrets.token_hex(8)}")
