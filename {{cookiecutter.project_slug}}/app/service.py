"""The parts of one running service, as handlers and routes see them."""

from asyncio import Future
from dataclasses import dataclass
from typing import Any

from .admission import Admission
from .auth import Authenticator
from .backplane import Backplane, Publication
from .connection import Connection
from .flusher import Flusher
from .idempotency import Claims
from .manager import ConnectionManager
from .metrics import Metrics
from .origin import Origins
# {% if cookiecutter.rooms %}
from .rooms import RoomPublication, Rooms
# {% endif %}
from .settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    """What `main.create_app` puts together, once per process.

    ``publication`` is the body that ``POST /publish`` takes.
    """

    settings: Settings
    admission: Admission
    origins: Origins
    authenticator: Authenticator
    backplane: Backplane
    flusher: Flusher
    manager: ConnectionManager
    claims: Claims
    metrics: Metrics
    # {% if cookiecutter.rooms %}
    rooms: Rooms
    # {% endif %}
    publication: type[Publication] = Publication

    def forget(self, connection: Connection) -> None:
        """Take a connection that has ended out of everything. Idempotent; nothing here waits."""
        # {% if cookiecutter.rooms %}
        try:
            self.rooms.leave_all(connection)
        finally:
            self.manager.remove(connection)
        # {% else %}
        self.manager.remove(connection)
        # {% endif %}

    def publish(self, publication: Publication) -> Future[Any]:
        """Send what the team's backend publishes; the future fails with `Unavailable`.

        Raises:
            WrongThread: this is not the event loop's thread.

        """
        # {% if cookiecutter.rooms %}
        if isinstance(publication, RoomPublication) and publication.room is not None:
            return self.rooms.publish(publication.room, publication.data)
        # {% endif %}
        if publication.user is not None:
            return self.manager.send_to_user(publication.user, publication.data)
        return self.manager.broadcast(publication.data)
