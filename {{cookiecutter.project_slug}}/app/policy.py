"""Authorization: rules for what clients may do; a refused command gets the error ``forbidden``.

Write a rule with ``def``, or with ``async def`` if it has to wait, for example for a database.
"""

from . import realtime
from .resources import Connection, Service


class Policy(realtime.Policy[Service, Connection]):
    """The rules of this service."""

    # {% if cookiecutter.rooms %}
    def can_join(self, service: Service, connection: Connection, room: str) -> bool:
        """Return whether the user may join the room and get its messages."""
        return True

    def can_publish(self, service: Service, connection: Connection, room: str) -> bool:
        """Return whether the user, a member of the room, may send to it."""
        return True

    # {% endif %}
    def can_send(self, service: Service, connection: Connection, to: str) -> bool:
        """Return whether the user may send to all connections of the user ``to``."""
        return True

    def can_broadcast(self, service: Service, connection: Connection) -> bool:
        """Return whether the user may send to everybody."""
        return service.settings.clients_may_broadcast
