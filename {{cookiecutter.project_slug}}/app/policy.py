"""Who may do what. The engine asks before it acts for a client; a refusal is ``forbidden``.

Write a rule with ``def``, or with ``async def`` if it has to wait, for a database say.
"""

from . import realtime
from .resources import Connection, Service


class Policy(realtime.Policy[Service, Connection]):
    """The rules of this service."""

    # {% if cookiecutter.rooms %}
    def can_join(self, service: Service, connection: Connection, room: str) -> bool:
        """Return whether the user may enter the room and read its messages: everybody may."""
        return True

    def can_publish(self, service: Service, connection: Connection, room: str) -> bool:
        """Return whether the user, a member of the room, may send to it: every member may."""
        return True

    # {% endif %}
    def can_send(self, service: Service, connection: Connection, to: str) -> bool:
        """Return whether the user may send to all connections of the user ``to``: anybody may."""
        return True

    def can_broadcast(self, service: Service, connection: Connection) -> bool:
        """Return whether the user may send to everybody: only with ``CLIENTS_MAY_BROADCAST``."""
        return service.settings.clients_may_broadcast
