"""The connection manager: registers connections by user, and sends to users or to everybody."""

import asyncio
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Literal, Unpack

from pydantic import JsonValue
from pydantic_core import to_json

from ..arguments import Arguments, check_arguments
from ..backplane import ALL, Backplane, Envelope, Subscription, user_channel
from ..errors import TooManyConnections
from ..protocol import REPLACED, REVOKED, DirectMessage, ServerFrame
from ..settings.settings import RealtimeSettings
from ..wire.frame import frame_data, text_frame
from .connection import Connection
from .delivery import Delivery


def direct_frame(envelope: Envelope, to: Literal["user", "all"]) -> bytes | DirectMessage:
    """Return the frame that connections get."""
    if envelope.event == "frame":
        return text_frame(to_json(envelope.data))
    return DirectMessage(envelope.sender, envelope.data, to)


class ConnectionManager:
    """The connections of this process. Messages reach those of the whole service.

    Call the methods in the event loop's thread. In another thread, as in a route declared with
    plain ``def``, those that send or change something, and each ``async def``, raise `WrongThread`
    and do nothing. An invalid argument raises `BadRequest`, and a message larger than what may be
    unsent to one connection `TooLarge`.
    """

    def __init__(
        self, settings: RealtimeSettings, backplane: Backplane, delivery: Delivery
    ) -> None:
        self._settings = settings
        self._backplane = backplane
        self._delivery = delivery
        self._connections: dict[str, Connection] = {}
        # By user and id, the oldest first
        self._users: dict[str, dict[str, Connection]] = {}
        self.draining = False
        self._subscription = backplane.subscribe(Subscription(ALL, self._deliver))

    def __len__(self) -> int:
        """Return the number of registered connections."""
        return len(self._connections)

    def __iter__(self) -> Iterator[Connection]:
        """Iterate over a copy: connections may come and go meanwhile."""
        return iter(list(self._connections.values()))

    def _check_call(self, **arguments: Unpack[Arguments]) -> None:
        self._delivery.check_thread()
        check_arguments(**arguments)

    async def add(self, connection: Connection) -> None:
        """Register a connection. Once it is opened, it misses no message to its user or to all.

        Raises:
            TooManyConnections: the user is at the limit, and settings say to refuse the newest.
            Unavailable: messages would be missed.
        """
        self._delivery.check_thread()
        channel = user_channel(connection.user)
        connections = self._users.setdefault(connection.user, {})
        if not connections:
            deliver = partial(self._deliver_to_user, connections)
            self._backplane.subscribe(Subscription(channel, deliver))
        subscription = self._backplane.hosted[channel]
        may_refuse = self._settings.user_limit_policy == "refuse_newest"
        if may_refuse and len(_present(connections)) >= self._settings.max_connections_per_user:
            raise TooManyConnections
        connections[connection.id] = self._connections[connection.id] = connection
        for each in (self._subscription, subscription):
            await self._backplane.confirm(each)

    def replace_older(self, connection: Connection) -> None:
        """Close the oldest connections of a user until the limit allows this one."""
        present = _present(self._users[connection.user])
        older = present[: present.index(connection)]
        excess = len(older) + 1 - self._settings.max_connections_per_user
        for oldest in older[: max(0, excess)]:
            oldest.close(REPLACED)

    def remove(self, connection: Connection) -> None:
        """Remove a connection. Idempotent."""
        self._delivery.check_thread()
        if self._connections.pop(connection.id, None) is None:
            return
        connections = self._users[connection.user]
        del connections[connection.id]
        if not connections:
            del self._users[connection.user]
            channel = user_channel(connection.user)
            self._backplane.unsubscribe(self._backplane.hosted[channel])

    # {% if cookiecutter.redis %}
    def send_to_node(self, frame: ServerFrame) -> None:
        """Send a frame to every connection of this node. `broadcast_frame` reaches all nodes."""
        self._delivery.check_thread()
        self._delivery.send_all(self._connections, frame)

    # {% endif %}
    def send_to_connection(self, connection_id: str, data: JsonValue) -> bool:
        """Send server data to one connection of this process; return whether it exists."""
        self._delivery.check_thread()
        connection = self._connections.get(connection_id)
        if connection is None:
            return False
        connection.send(DirectMessage(sender=None, data=data, to="user"))
        return True

    def send_to_user(
        self,
        user: str,
        data: JsonValue,
        *,
        sender: str | None = None,
        exclude: str | None = None,
        message_id: str | None = None,
    ) -> asyncio.Future[int]:
        """Send to every connection of a user but the excluded one.

        The future yields how many processes the user is connected to, 0 if to none. It fails
        with `Unavailable` if the message cannot be passed on. You may then send the message again
        with the same ``message_id``: clients get it once.
        """
        self._check_call(user=user, sender=sender, exclude=exclude, message_id=message_id)
        envelope = Envelope(sender, data, exclude)
        return self._backplane.publish(user_channel(user), envelope, message_id)

    def broadcast(
        self,
        data: JsonValue,
        *,
        sender: str | None = None,
        exclude: str | None = None,
        message_id: str | None = None,
    ) -> asyncio.Future[int]:
        """Send to every connection but the excluded one; see `send_to_user` for the rest."""
        self._check_call(sender=sender, exclude=exclude, message_id=message_id)
        return self._backplane.publish(ALL, Envelope(sender, data, exclude), message_id)

    def send_frame(
        self, frame: ServerFrame, *users: str, exclude: str | None = None
    ) -> asyncio.Future[list[int]]:
        """Send a frame of your own to these users; yields the result of `send_to_user` for each."""
        self._check_call(exclude=exclude)
        for user in users:
            check_arguments(user=user)
        envelope, publish = _frame_envelope(frame, exclude), self._backplane.publish
        return asyncio.gather(*(publish(user_channel(user), envelope) for user in users))

    def broadcast_frame(
        self, frame: ServerFrame, *, exclude: str | None = None
    ) -> asyncio.Future[int]:
        """Send a frame of your own to every connection, like `broadcast`."""
        self._check_call(exclude=exclude)
        return self._backplane.publish(ALL, _frame_envelope(frame, exclude))

    async def is_online(self, user: str) -> bool:
        """Return whether a user is connected; raise `Unavailable` if that is unknown."""
        self._check_call(user=user)
        return await self._backplane.count_nodes(user_channel(user)) > 0

    def disconnect(self, user: str) -> asyncio.Future[int]:
        """Close every connection of a user.

        This does not ban the user, see `Service.ban`. The future fails with `Unavailable` if the
        request cannot be passed on.
        """
        self._check_call(user=user)
        envelope = Envelope(sender=None, data=None, event="disconnect")
        return self._backplane.publish(user_channel(user), envelope)

    def _deliver(self, envelope: Envelope) -> None:
        frame = direct_frame(envelope, "all")
        self._delivery.send_all(self._connections, frame, envelope.exclude)

    def _deliver_to_user(self, connections: Mapping[str, Connection], envelope: Envelope) -> None:
        if envelope.event == "disconnect":
            for connection in list(connections.values()):
                connection.close(REVOKED)
        else:
            frame = direct_frame(envelope, "user")
            self._delivery.send_all(connections, frame, envelope.exclude)


def _present(connections: Mapping[str, Connection]) -> list[Connection]:
    """Return the connections that are not closing."""
    return [each for each in connections.values() if each.closed is None]


def _frame_envelope(frame: ServerFrame, exclude: str | None) -> Envelope:
    return Envelope(None, frame_data(frame), exclude, event="frame")
