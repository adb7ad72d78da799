"""The running service, as handlers, policies, routes and jobs see it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from typing_extensions import TypeVar

from .arguments import check_arguments
from .auth import Authenticator
from .backplane import Backplane
from .connections.connection import Connection
from .connections.delivery import Delivery
from .connections.manager import ConnectionManager
from .errors import Banned
from .expiring import ExpiringMap
from .jobs import Job
from .limits.admission import Admission
from .limits.budget import Budgets
from .limits.origin import Origins
from .metrics import Metrics
# {% if cookiecutter.rooms %}
from .rooms.history import History
from .rooms.presence import Presence
from .rooms.rooms import Rooms
# {% endif %}
from .settings.settings import RealtimeSettings

SettingsT = TypeVar("SettingsT", bound=RealtimeSettings, default=RealtimeSettings, covariant=True)
ResourcesT = TypeVar("ResourcesT", default=Any, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The parts that hold the state of the service, and the ``jobs`` that they need.

    ``make_map`` takes the kind of the values, such as ``ban``, and returns the map for this kind.
    """

    backplane: Backplane
    make_map: Callable[[str], ExpiringMap]
    # {% if cookiecutter.rooms %}
    history: History
    presence: Presence
    # {% endif %}
    jobs: Sequence[Job] = ()


def in_memory(settings: RealtimeSettings) -> Shared:
    """Return the parts for one process, which keeps the state in its memory."""
    backplane = Backplane()
    return Shared(
        backplane=backplane,
        make_map=lambda kind: ExpiringMap(),
        # {% if cookiecutter.rooms %}
        history=History(backplane, settings),
        presence=Presence(backplane, settings),
        # {% endif %}
    )


class Service(Generic[SettingsT, ResourcesT]):
    """The parts of a service. `Application` makes one.

    ``resources`` is the value that your `resources.py` yields, available while the application
    runs.

    ``bans`` holds the banned users. ``backend_requests`` and ``client_requests`` hold the
    idempotency keys that your backend and clients have used, see `send_once`.
    """

    resources: ResourcesT

    def __init__(
        self,
        settings: SettingsT,
        authenticator: Authenticator,
        shared: Shared,
        delivery: Delivery,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.authenticator = authenticator
        self.delivery = delivery
        self.metrics = metrics
        self.admission = Admission(settings)
        self.budgets = Budgets(settings)
        self.origins = Origins(settings, required=authenticator.needs_origin)
        self.backplane = shared.backplane
        self.bans = shared.make_map("ban")
        self.backend_requests = shared.make_map("idempotency")
        self.client_requests = shared.make_map("key")
        self.manager = manager = ConnectionManager(settings, shared.backplane, delivery)
        metrics.watch("connections", "Connections now.", lambda: len(manager))
        metrics.watch("draining", "Whether the service is stopping.", lambda: self.stopping)
        # {% if cookiecutter.rooms %}
        self.rooms = rooms = Rooms(settings, shared.history, shared.presence, delivery)
        metrics.watch("rooms", "Rooms with members in this process.", lambda: len(rooms))
        # {% endif %}
        metrics.watch(
            "unsent_bytes", "Bytes unsent to slow consumers.", lambda: delivery.unsent_bytes
        )
        sent = "Frames sent to clients, each counted once."
        metrics.watch_counts("frames_sent", sent, "to", delivery.frames_sent)
        metrics.watch_counts("sent_bytes", "Bytes of these frames.", "to", delivery.bytes_sent)
        self.started = False
        self.stopping = False
        self.is_ready: Callable[[], Awaitable[bool]] | None = None
        """Your readiness check, which ``/readyz`` calls after the engine's own checks."""

    async def ban(self, user: str, ban_s: float) -> None:
        """Disconnect a user, and refuse new connections for ``ban_s``; 0 lifts an earlier ban.

        Raises:
            BadRequest: the name is invalid, or the time is negative or more than a year.
            Unavailable: the ban cannot be stored or passed on.
            WrongThread: this is not the event loop's thread.
        """
        self.delivery.check_thread()
        check_arguments(user=user, ban_s=ban_s)
        if ban_s:
            await self.bans.put(user, "", ban_s)
        else:
            await self.bans.pop(user)
        await self.manager.disconnect(user)  # also those that passed the check before the ban

    async def check_ban(self, user: str) -> None:
        """Raise `Banned` if the user is banned, or `Unavailable` if that is unknown."""
        if await self.bans.get(user) is not None:
            raise Banned

    def forget(self, connection: Connection) -> None:
        """Remove an ended connection everywhere. Idempotent; never waits."""
        # {% if cookiecutter.rooms %}
        self.rooms.leave_all(connection)
        # {% endif %}
        self.manager.remove(connection)
