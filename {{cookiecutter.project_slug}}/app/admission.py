"""Who may come in, before anything is known of them: how many, from where, and how fast."""

from ipaddress import IPv6Address, ip_address
from time import monotonic

from .errors import HouseFull, TooManyFromAddress, TooManyHandshakes
from .settings import Settings

BURST_S = 1.0
"""So many seconds' handshakes may come at once."""


def network_of(host: str) -> str:
    """Return what one customer has: an IPv4 address, or the /64 around an IPv6 one (RFC 6177).

    A host that is no address, as only a trusted proxy may tell, stands for itself.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return address.packed[:8].hex(":", 2)
    return host


class Admission:
    """The places of this process, held from before the handshake until the very end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._taken = 0
        self._taken_from: dict[str, int] = {}
        self._handshakes_until = 0.0  # at the highest rate allowed, see `conduct`

    @property
    def is_empty(self) -> bool:
        """Whether nobody has a place."""
        return self._taken == 0

    def enter(self, network: str | None) -> None:
        """Take a place, for a client from this network, null if the server cannot tell.

        Raises:
            HouseFull: there is none.
            TooManyFromAddress: the network has as many as one may have.
            TooManyHandshakes: newcomers come too fast. The refused do not count, or nobody would
                get in as long as everybody tries.

        """
        if self._taken >= self._settings.max_connections:
            raise HouseFull
        taken = 0 if network is None else self._taken_from.get(network, 0)
        if taken >= self._settings.max_connections_per_address:
            raise TooManyFromAddress
        now = monotonic()
        until = max(self._handshakes_until, now)
        if until - now >= BURST_S:
            raise TooManyHandshakes
        self._handshakes_until = until + 1 / self._settings.max_handshakes_per_s
        self._taken += 1
        if network is not None:
            self._taken_from[network] = taken + 1

    def leave(self, network: str | None) -> None:
        """Give a place back that was taken."""
        self._taken -= 1
        if network is not None:
            self._taken_from[network] -= 1
            if not self._taken_from[network]:
                del self._taken_from[network]
