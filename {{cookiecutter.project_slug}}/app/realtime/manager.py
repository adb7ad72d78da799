"""Who is connected to this node, and how to reach one connection, one user or everybody."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from pydantic import JsonValue

from .audience import Audience
from .backplane import ALL, Backplane, Envelope, Subscription, user_channel
from .connection import Connection
from .delivery import Flusher
from .errors import TooManyConnections, Unavailable
from .protocol import REPLACED, REVOKED, DirectMessage, ServerFrame
from .settings import RealtimeSettings


@dataclass(slots=True, kw_only=True)
class UserEnvelope(Envelope):
    """A message to a user's connections, or the end of them all."""

    disconnect: bool = False


class Everybody(Audience):
    """All connections of this node."""

    __slots__ = ()

    def deliver(self, envelope: Envelope) -> None:
        """Write a message to all."""
        message = DirectMessage(envelope.sender, envelope.data, "all")
        self.write(message, exclude=envelope.exclude)


class UserAudience(Audience):
    """The connections that one user has to this node."""

    __slots__ = ()

    def deliver(self, envelope: UserEnvelope) -> None:
        """Write a message to the user's connections, or close them."""
        if envelope.disconnect:
            for connection in self:
                connection.close(REVOKED)
        else:
            message = DirectMessage(envelope.sender, envelope.data, "user")
            self.write(message, exclude=envelope.exclude)


@dataclass(frozen=True, slots=True)
class HostedUser:
    """A user's audience, and the subscription that its messages come from."""

    audience: UserAudience
    subscription: Subscription


class ConnectionManager:
    """The registry of this node's connections.

    It belongs to the event loop's thread. From another thread, as that of a route declared with
    plain ``def``, whatever sends or changes raises `WrongThread` and does nothing.
    """

    def __init__(self, settings: RealtimeSettings, backplane: Backplane, flusher: Flusher) -> None:
        self._settings = settings
        self._backplane = backplane
        self._flusher = flusher
        self._everybody = Everybody(flusher)
        self._users: dict[str, HostedUser] = {}
        self.draining = False
        backplane.subscribe(Subscription(ALL, self._everybody.deliver))

    def __len__(self) -> int:
        """Return the number of registered connections."""
        return len(self._everybody)

    def __iter__(self) -> Iterator[Connection]:
        """Iterate over the connections of this moment; they may come and go meanwhile."""
        return iter(self._everybody)

    async def add(self, connection: Connection) -> None:
        """Register a connection; on return nothing sent to its user or to all escapes it.

        Raises:
            TooManyConnections: the user has as many as allowed, and newcomers are refused.

        """
        self._flusher.check_thread()
        user = self._users.get(connection.user)
        if user is None:
            user = self._users[connection.user] = self._host(connection.user)
        self._make_way(user)
        user.audience.add(connection)
        self._everybody.add(connection)
        with suppress(Unavailable):  # who connects in an outage waits for its end with the others
            await self._backplane.confirm(user.subscription)

    def _host(self, user: str) -> HostedUser:
        audience = UserAudience(self._flusher)
        subscription = Subscription(user_channel(user), audience.deliver, UserEnvelope)
        return HostedUser(audience, self._backplane.subscribe(subscription))

    def _make_way(self, user: HostedUser) -> None:
        # Those that are closing already are not in the way.
        present = [connection for connection in user.audience if connection.closed is None]
        excess = len(present) + 1 - self._settings.max_connections_per_user
        if excess > 0 and self._settings.user_limit_policy == "refuse_newest":
            raise TooManyConnections
        for oldest in present[: max(0, excess)]:
            oldest.close(REPLACED)

    def remove(self, connection: Connection) -> None:
        """Forget exactly this connection. Idempotent."""
        self._flusher.check_thread()
        if not self._everybody.remove(connection):
            return
        user = self._users[connection.user]
        user.audience.remove(connection)
        if not user.audience:
            del self._users[connection.user]
            self._backplane.unsubscribe(user.subscription)

    def send_to_all(self, frame: ServerFrame) -> None:
        """Send a frame of the server's own to every connection of this node."""
        self._everybody.write(frame)

    def send_to_connection(self, connection_id: str, data: JsonValue) -> bool:
        """Send server data to one connection of this node; return whether it is here."""
        connection = self._everybody.get(connection_id)
        if connection is None:
            return False
        connection.send(DirectMessage(sender=None, data=data, to="user"))
        return True

    def send_to_user(
        self, user: str, data: JsonValue, *, sender: str | None = None, exclude: str | None = None
    ) -> asyncio.Future[None]:
        """Send to every connection of a user, on every node, but the excluded one.

        The future fails with `Unavailable` if the message cannot be passed on.
        """
        self._flusher.check_thread()
        envelope = UserEnvelope(sender, data, exclude)
        return self._backplane.publish(user_channel(user), envelope)

    def disconnect(self, user: str) -> asyncio.Future[None]:
        """Close every connection of a user, on every node; keeping them out is for others to do.

        The future fails with `Unavailable` if the other nodes cannot be told.
        """
        self._flusher.check_thread()
        envelope = UserEnvelope(sender=None, data=None, disconnect=True)
        return self._backplane.publish(user_channel(user), envelope)

    def broadcast(
        self, data: JsonValue, *, sender: str | None = None, exclude: str | None = None
    ) -> asyncio.Future[None]:
        """Send to every connection, on every node, but the excluded one.

        The future fails with `Unavailable` if the message cannot be passed on.
        """
        self._flusher.check_thread()
        envelope = Envelope(sender, data, exclude)
        return self._backplane.publish(ALL, envelope)
