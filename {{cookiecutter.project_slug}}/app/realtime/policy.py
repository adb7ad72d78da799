"""Authorization: the rules that the engine calls before it acts for a client."""

from collections.abc import Awaitable
from typing import Any, Generic

# {% if cookiecutter.rooms %}
from pydantic import JsonValue
# {% endif %}
from typing_extensions import TypeVar

from .connections.connection import Connection
# {% if cookiecutter.rooms %}
from .rooms.options import RoomOptions
# {% endif %}
from .service import Service

ServiceT = TypeVar("ServiceT", bound=Service[Any, Any], default=Service)
ConnectionT = TypeVar("ConnectionT", bound=Connection, default=Connection)

Answer = bool | Awaitable[bool]
"""The result of a rule. A ``def`` returns it at once; an ``async def`` may wait for a database."""


async def settled(answer: Answer) -> bool:
    """Return the answer of a rule or of ``is_ready``; await it if that is an ``async def``.

    Raises:
        TypeError: the answer is not a bool.
    """
    if not isinstance(answer, bool):
        answer = await answer
        if not isinstance(answer, bool):
            raise TypeError(f"a rule, or is_ready, returned {type(answer).__name__}, not a bool")
    return answer


class Policy(Generic[ServiceT, ConnectionT]):
    """The default rules. Override a method with ``def`` or ``async def``.

    A refusal is answered with ``forbidden``, and the connection stays open. A rule that waits is
    cancelled after ``HANDLER_TIMEOUT_S``, and when the connection ends. Meanwhile the client's next
    command waits. Each rule whose name begins with ``can_`` must return a bool. Any other value
    fails the command with ``internal``; in `can_exceed_rates`, it closes the connection with 1011.
    """

    def can_exceed_rates(self, service: ServiceT, connection: ConnectionT) -> Answer:
        """Return whether the connection may exceed the rates of messages and bytes; by default no.

        It is called once, when a connection begins.
        """
        return False

    # {% if cookiecutter.rooms %}
    def can_join(self, service: ServiceT, connection: ConnectionT, room: str) -> Answer:
        """Return whether the user may join the room and get its messages; the default is yes."""
        return True

    def can_publish(self, service: ServiceT, connection: ConnectionT, room: str) -> Answer:
        """Return whether the user, a member of the room, may send to it; the default is yes."""
        return True

    def presence_info(
        self, service: ServiceT, connection: ConnectionT, room: str, info: JsonValue
    ) -> JsonValue | Awaitable[JsonValue]:
        """Return the info that the members of a room see of the user who joins.

        ``info`` is what the client sent. If the result is None, the user's info stays unchanged.
        """
        return info

    def room_options(self, service: ServiceT, room: str) -> RoomOptions:
        """Return the options in which a room differs from the settings; by default none.

        It must be a ``def``, and always give the same answer for the same name. The answers for the
        last 10,000 rooms are remembered.
        """
        return RoomOptions()

    def before_publish(
        self, service: ServiceT, room: str, sender: str | None, data: JsonValue, keep: bool
    ) -> JsonValue | Awaitable[JsonValue]:
        """Return the data to publish to a room, changed or not; raise `Forbidden` to refuse.

        It is called for every message, from clients, ``POST /publish`` and your own code;
        ``sender`` is None for the server. With ``async def`` it may store the message first.
        ``keep`` is false for a message that is not part of the history, such as a typing notice.
        """
        return data

    # {% endif %}
    def can_send(self, service: ServiceT, connection: ConnectionT, to: str) -> Answer:
        """Return whether the user may send to all connections of ``to``; the default is yes."""
        return True

    def can_broadcast(self, service: ServiceT, connection: ConnectionT) -> Answer:
        """Return whether the user may send to everybody; the default is ``CLIENTS_MAY_BROADCAST``.

        The cost of one message grows with the number of connections.
        """
        may_broadcast: bool = service.settings.clients_may_broadcast
        return may_broadcast
