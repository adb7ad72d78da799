"""Who may do what: the questions that the engine asks before it acts for a client."""

from collections.abc import Awaitable
from typing import Any, Generic

# {% if cookiecutter.rooms %}
from pydantic import JsonValue
# {% endif %}
from typing_extensions import TypeVar

from .connections.connection import Connection
from .service import Service

ServiceT = TypeVar("ServiceT", bound=Service[Any, Any], default=Service)
ConnectionT = TypeVar("ConnectionT", bound=Connection, default=Connection)

Answer = bool | Awaitable[bool]
"""What a rule returns: `def` answers at once, `async def` may wait, for a database say."""


class Policy(Generic[ServiceT, ConnectionT]):
    """The default rules. Override a method with ``def`` or ``async def``.

    A refusal is answered by ``forbidden``, and the connection stays. What a rule waits for ends
    after ``HANDLER_TIMEOUT_S``, and with the connection. The client's next command waits as well.
    """

    # {% if cookiecutter.rooms %}
    def can_join(self, service: ServiceT, connection: ConnectionT, room: str) -> Answer:
        """Return whether the user may enter the room and read its messages: everybody may."""
        return True

    def can_publish(self, service: ServiceT, connection: ConnectionT, room: str) -> Answer:
        """Return whether the user, a member of the room, may send to it: every member may."""
        return True

    def before_publish(
        self, service: ServiceT, room: str, sender: str | None, data: JsonValue
    ) -> JsonValue | Awaitable[JsonValue]:
        """Return the data to publish to a room, as it is or changed; raise `Forbidden` to refuse.

        Every message passes here: from a client, from ``POST /publish`` and from your own code,
        which have no ``sender``. Declared ``async def``, it may store the message first.
        """
        return data

    # {% endif %}
    def can_send(self, service: ServiceT, connection: ConnectionT, to: str) -> Answer:
        """Return whether the user may send to all connections of the user ``to``: anybody may."""
        return True

    def can_broadcast(self, service: ServiceT, connection: ConnectionT) -> Answer:
        """Return whether the user may send to everybody: only with ``CLIENTS_MAY_BROADCAST``.

        One message costs as much as there are connections.
        """
        may_broadcast: bool = service.settings.clients_may_broadcast
        return may_broadcast
