"""Who may come in, before anything is known of them: how many, from where, and how fast."""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from time import monotonic

from ..errors import (
    HouseFull,
    TooManyFromAddress,
    TooManyHandshakes,
    TooManyHandshakesFromAddress,
)
from ..settings import RealtimeSettings

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
    """The places of this process, held from before the handshake until the very end.

    Each rate is one number, the theoretical arrival time (GCRA, see `conduct`).
    """

    def __init__(self, settings: RealtimeSettings) -> None:
        self._settings = settings
        self._taken = 0
        self._taken_from: dict[str, int] = {}
        self._handshakes_until = 0.0
        # By network, the one that changed last at the end; those that have passed are forgotten.
        # Unlike a dict, it finds its first item at once after many before that were removed.
        self._handshakes_from_until: OrderedDict[str, float] = OrderedDict()

    def check_network(self, network: str | None) -> None:
        """Count a handshake from this network, null if the server cannot tell.

        It comes before all that clients share, so that no network can use that up by itself.
        Refused handshakes do not count: otherwise clients that retry would keep everybody out.

        Raises:
            TooManyFromAddress: the network has as many connections as one may have.
            TooManyHandshakesFromAddress: it connects too fast.

        """
        if network is None:
            return
        if self._taken_from.get(network, 0) >= self._settings.max_connections_per_address:
            raise TooManyFromAddress
        now = monotonic()
        self._forget_until(now)
        until = max(self._handshakes_from_until.get(network, now), now)
        if until - now >= BURST_S:
            raise TooManyHandshakesFromAddress
        interval_s = 1 / self._settings.max_handshakes_per_s_per_address
        self._handshakes_from_until[network] = until + interval_s
        self._handshakes_from_until.move_to_end(network)

    def _forget_until(self, now: float) -> None:
        # Each call adds at most one, so what is forgotten costs no more in the long run.
        while self._handshakes_from_until:
            oldest = next(iter(self._handshakes_from_until))
            if self._handshakes_from_until[oldest] > now:
                break
            del self._handshakes_from_until[oldest]

    @property
    def is_empty(self) -> bool:
        """Whether all places are free."""
        return self._taken == 0

    def enter(self, network: str | None) -> "Place":
        """Take a place, for a client from this network.

        Raises:
            HouseFull: there is none.
            TooManyHandshakes: newcomers come too fast. The refused do not count.

        """
        if self._taken >= self._settings.max_connections:
            raise HouseFull
        now = monotonic()
        until = max(self._handshakes_until, now)
        if until - now >= BURST_S:
            raise TooManyHandshakes
        self._handshakes_until = until + 1 / self._settings.max_handshakes_per_s
        self._taken += 1
        if network is not None:
            self._taken_from[network] = self._taken_from.get(network, 0) + 1
        return Place(self, network)

    def give_back(self, network: str | None) -> None:
        """Take a place back, which `Place.leave` does once."""
        self._taken -= 1
        if network is not None:
            self._taken_from[network] -= 1
            if not self._taken_from[network]:
                del self._taken_from[network]


class Place:
    """What one client takes of the places, until it leaves."""

    __slots__ = ("_admission", "_network", "is_taken")

    def __init__(self, admission: Admission, network: str | None) -> None:
        self._admission = admission
        self._network = network
        self.is_taken = True

    def leave(self) -> None:
        """Give the place back. Idempotent."""
        if self.is_taken:
            self.is_taken = False
            self._admission.give_back(self._network)
