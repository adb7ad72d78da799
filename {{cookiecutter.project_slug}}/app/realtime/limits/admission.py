"""Admission: how many clients may connect, in all and per network, and how fast."""

from collections import Counter, OrderedDict
from ipaddress import IPv6Address, ip_address
from time import monotonic

from ..errors import Refused
from ..settings.settings import RealtimeSettings
from .rate import RateLimit

BURST_S = 1.0
"""Length of a burst of handshakes, in seconds at the full rate."""


def network_of(host: str) -> str:
    """Return the network of one customer: an IPv4 address, or an IPv6 /64 prefix (RFC 6177).

    A host that is not an IP address, as a trusted proxy may report, is its own network.
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


class ConnectionsByNetwork:
    """Counts the connections of each network, up to a limit; None is a network without a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._connections: Counter[str] = Counter()

    def is_full(self, network: str | None) -> bool:
        """Return whether a network is at its limit."""
        return network is not None and self._connections[network] >= self._limit

    def enter(self, network: str | None) -> None:
        """Count a connection in."""
        if network is not None:
            self._connections[network] += 1

    def leave(self, network: str | None) -> None:
        """Count a connection out. Each that has entered must leave exactly once."""
        if network is not None:
            self._connections[network] -= 1
            if not self._connections[network]:
                del self._connections[network]


class Admission:
    """Counts handshakes, and connections from their handshake on, in all and per network.

    A network is None if the server cannot tell it. ``http`` counts the connections that are not, or
    not yet, WebSockets.
    """

    def __init__(self, settings: RealtimeSettings) -> None:
        self.http = ConnectionsByNetwork(settings.max_connections_per_address)
        self._settings = settings
        self._connections = 0
        self._by_network = ConnectionsByNetwork(settings.max_connections_per_address)
        self._handshakes = RateLimit(settings.max_handshakes_per_s, burst_s=BURST_S)
        # By network, in the order of the last handshake. A dict would be slow to find its first
        # item after many removals at its start.
        self._handshakes_from: OrderedDict[str, RateLimit] = OrderedDict()

    def check_network(self, network: str | None) -> None:
        """Count a handshake against the limits of its network.

        This comes before the limits that all clients share, so that one network cannot use those
        up. Handshakes refused here do not count, so that retries do not lock the network out.
        Handshakes refused later, for their origin or at capacity, do count.

        Raises:
            Refused: 429; the network is at its limit of connections, or connects too fast.
        """
        if network is None:
            return
        if self._by_network.is_full(network):
            raise Refused("too many connections from this address")
        now = monotonic()
        self._forget_idle(now)
        rate = self._handshakes_from.get(network)
        if rate is None:
            rate = RateLimit(self._settings.max_handshakes_per_s_per_address, burst_s=BURST_S)
            self._handshakes_from[network] = rate
        if not rate.take(now):
            raise Refused("too many handshakes from this address")
        self._handshakes_from.move_to_end(network)

    def enter(self, network: str | None) -> None:
        """Count a connection in.

        Raises:
            Refused: 503; the service is at capacity, or all clients together connect too fast.
        """
        if self._connections >= self._settings.max_connections:
            raise Refused("at capacity")
        if not self._handshakes.take(monotonic()):
            raise Refused("too many handshakes")
        self._connections += 1
        self._by_network.enter(network)

    def leave(self, network: str | None) -> None:
        """Count a connection out. Each that has entered must leave exactly once."""
        self._connections -= 1
        self._by_network.leave(network)

    def _forget_idle(self, now: float) -> None:
        # A handshake adds at most one network, so on average this loop removes at most one.
        while self._handshakes_from:
            oldest = next(iter(self._handshakes_from))
            if self._handshakes_from[oldest].lead_s(now) > 0:
                break
            del self._handshakes_from[oldest]
