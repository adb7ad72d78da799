"""The allow-list of origins, against cross-site WebSocket hijacking (CWE-1385)."""

from starlette.requests import HTTPConnection

from ..errors import Refused
from ..settings.settings import RealtimeSettings

OWN_HOSTS = ("localhost", "127.0.0.1")

DEFAULT_PORT = 80
"""Browsers leave it out of an origin."""


class Origins:
    """The allow-list. Browsers send the Origin header; other clients can omit or forge it.

    In development, the list includes the service's own pages, at its names and addresses.
    """

    def __init__(self, settings: RealtimeSettings, *, required: bool = False) -> None:
        self._allowed = frozenset(settings.allowed_origins)
        self._own_host = settings.host if settings.environment == "development" else None
        self._required = required

    def check(self, handshake: HTTPConnection) -> None:
        """Check that the origin is on the list, or missing and not required.

        Raises:
            Refused: 403; it is missing but required, ``null``, given twice, or not on the list.
        """
        origins = [origin.lower() for origin in handshake.headers.getlist("origin")]
        if not origins and not self._required:
            return
        if len(origins) != 1 or origins[0] not in self._allowed | self._own(handshake):
            raise Refused("origin not allowed")

    def _own(self, handshake: HTTPConnection) -> set[str]:
        if self._own_host is None:
            return set()
        address, port = handshake.scope.get("server") or (self._own_host, None)
        return {origin_of(host, port) for host in (*OWN_HOSTS, self._own_host, address)}


def origin_of(host: str, port: int | None) -> str:
    """Return the origin of the pages of a server, as browsers write it."""
    name = f"[{host}]" if ":" in host else host.lower()
    return f"http://{name}" if port == DEFAULT_PORT else f"http://{name}:{port}"
