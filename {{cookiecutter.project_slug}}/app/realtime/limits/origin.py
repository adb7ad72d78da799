"""The allow-list of origins: which web sites may connect, against hijacking (CWE-1385)."""

from starlette.requests import HTTPConnection

from ..errors import Refused


class Origins:
    """The allow-list. Browsers send the header Origin; other clients need not, or can forge it."""

    def __init__(self, allowed: tuple[str, ...], *, required: bool = False) -> None:
        self._allowed = frozenset(allowed)
        self._required = required

    def check(self, handshake: HTTPConnection) -> None:
        """Check that the origin is on the list, or missing and not required.

        Raises:
            Refused: 403; it is missing, ``null``, given twice or not on the list.

        """
        origins = handshake.headers.getlist("origin")
        if not origins and not self._required:
            return
        if len(origins) != 1 or origins[0].lower() not in self._allowed:
            raise Refused(403, "origin not allowed")
