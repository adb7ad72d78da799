"""The running service, as handlers, policies, routes and jobs see it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic

from typing_extensions import TypeVar

from .auth import Authenticator
from .backplane import Backplane
from .connections.connection import Connection
from .connections.delivery import Delivery
from .connections.manager import ConnectionManager
from .errors import Banned
from .expiring import ExpiringMap
from .limits.admission import Admission
from .limits.budget import Budgets
from .limits.origin import Origins
from .metrics import Metrics
# {% if cookiecutter.rooms %}
from .rooms.rooms import Rooms
# {% endif %}
from .settings.settings import RealtimeSettings

SettingsT = TypeVar("SettingsT", bound=RealtimeSettings, default=RealtimeSettings, covariant=True)
ResourcesT = TypeVar("ResourcesT", default=Any, covariant=True)


@dataclass(slots=True)
class Service(Generic[SettingsT, ResourcesT]):
    """The parts of a service. `Application` makes one.

    ``resources`` is what your `resources.py` opens. It is there from the start of the application
    to its end.
    """

    settings: SettingsT
    admission: Admission
    budgets: Budgets
    origins: Origins
    authenticator: Authenticator
    backplane: Backplane
    delivery: Delivery
    manager: ConnectionManager
    bans: ExpiringMap
    claims: ExpiringMap
    keys: ExpiringMap
    metrics: Metrics
    # {% if cookiecutter.rooms %}
    rooms: Rooms
    # {% endif %}
    resources: ResourcesT = field(init=False)
    started: bool = False
    is_ready: Callable[[], Awaitable[bool]] | None = None
    """What ``/readyz`` asks besides the engine's own parts."""

    async def ban(self, user: str, ban_s: float) -> None:
        """Disconnect a user, and refuse new connections for this time; 0 lifts an earlier ban.

        Raises:
            Unavailable: the ban cannot be stored, or the other nodes cannot be told.

        """
        if ban_s:
            await self.bans.put(user, "", ban_s)
        else:
            await self.bans.pop(user)
        await self.manager.disconnect(user)  # and connections that were checked before

    async def check_ban(self, user: str) -> None:
        """Raise `Banned` if the user is banned, or `Unavailable` if that is unknown."""
        if await self.bans.get(user) is not None:
            raise Banned

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
