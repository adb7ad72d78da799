"""The running service, as handlers, policies, routes and jobs see it."""

from asyncio import Future
from dataclasses import dataclass, field
from typing import Any, Generic

from typing_extensions import TypeVar

from .auth.identity import Authenticator
from .backplane import Backplane, Publication
from .connection import Connection
from .delivery import Flusher
from .idempotency import Claims
from .limits.admission import Admission
from .limits.origin import Origins
from .manager import ConnectionManager
from .metrics import Metrics
# {% if cookiecutter.rooms %}
from .rooms.rooms import RoomPublication, Rooms
# {% endif %}
from .settings import RealtimeSettings

SettingsT = TypeVar("SettingsT", bound=RealtimeSettings, default=RealtimeSettings, covariant=True)
ResourcesT = TypeVar("ResourcesT", default=Any, covariant=True)


@dataclass(slots=True)
class Service(Generic[SettingsT, ResourcesT]):
    """The parts of a service. `Application` makes one.

    ``resources`` is what your `resources.py` opens. It is there from the start of the application
    to its end. ``publication`` is the body that ``POST /publish`` takes.
    """

    settings: SettingsT
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
    publication: type[Publication] = RoomPublication
    # {% else %}
    publication: type[Publication] = Publication
    # {% endif %}
    resources: ResourcesT = field(init=False)
    started: bool = False

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
