"""The allow-list of origins: which web sites may connect, against hijacking (CWE-1385)."""

from starlette.requests import HTTPConnection

from ..errors import Refused

OWN_HOSTS = ("localhost", "127.0.0.1")


class Origins:
    """The allow-list. Browsers send the header Origin; other clients need not, or can forge it.

    ``with_own`` adds the service's own pages on this machine, at the port that it listens on.
    """

    def __init__(
        self, allowed: tuple[str, ...], *, with_own: bool = False, required: bool = False
    ) -> None:
        self._allowed = frozenset(allowed)
        self._own_hosts = OWN_HOSTS if with_own else ()
        self._required = required

    def check(self, handshake: HTTPConnection) -> None:
        """Check that the origin is on the list, or missing and not required.

        Raises:
            Refused: 403; it is missing, ``null``, given twice or not on the list.

        """
        origins = handshake.headers.getlist("origin")
        if not origins and not self._required:
            return
        if len(origins) != 1 or not self._is_allowed(origins[0].lower(), handshake):
            raise Refused("origin not allowed")

    def _is_allowed(self, origin: str, handshake: HTTPConnection) -> bool:
        _, port = handshake.scope.get("server") or (None, None)
        own = (f"http://{host}:{port}" for host in self._own_hosts)
        return origin in self._allowed or origin in own
