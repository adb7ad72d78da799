"""Which web sites may open a connection: an allow-list, against cross-site hijacking (CWE-1385)."""

from starlette.requests import HTTPConnection

from ..errors import OriginRefused


class Origins:
    """The allow-list. Origin is what browsers send; other clients send none, or what they like."""

    def __init__(self, allowed: tuple[str, ...], *, required: bool = False) -> None:
        self._allowed = frozenset(allowed)
        self._required = required

    def check(self, handshake: HTTPConnection) -> None:
        """Let a handshake pass whose origin is listed, or that has none unless one is required.

        Raises:
            OriginRefused: the origin is missing, ``null``, doubled or not on the list.

        """
        origins = handshake.headers.getlist("origin")
        if not origins and not self._required:
            return
        if len(origins) != 1 or origins[0].lower() not in self._allowed:
            raise OriginRefused
