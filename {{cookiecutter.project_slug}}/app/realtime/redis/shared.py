"""What the nodes of a service share through Redis."""

from functools import partial

from ..backplane import OnGap
from ..connections.delivery import Delivery
from ..jobs import Job
from ..metrics import Metrics
from ..service import Shared
from ..settings.settings import RealtimeSettings
from .backplane import RedisBackplane
from .map import RedisMap
# {% if cookiecutter.rooms %}
from .rooms.history import RedisHistory
from .rooms.presence import RedisPresence
# {% endif %}
from .topologies import make_client


def in_redis(
    settings: RealtimeSettings, metrics: Metrics, delivery: Delivery, after_gap: OnGap
) -> Shared | None:
    """Return the shared parts, None without ``REDIS_URL``.

    ``after_gap`` is called when messages may have been lost.
    """
    client = make_client(settings)
    if client is None:
        return None
    backplane = RedisBackplane(client, settings, metrics, delivery)
    backplane.after_gap(after_gap)
    # {% if cookiecutter.rooms %}
    history = RedisHistory(backplane, settings)
    presence = RedisPresence(backplane, settings)
    # {% endif %}
    return Shared(
        backplane=backplane,
        make_map=partial(RedisMap, client),
        # {% if cookiecutter.rooms %}
        history=history,
        presence=presence,
        jobs=[Job(part.run, essential=True) for part in (backplane, history, presence)],
        # {% else %}
        jobs=[Job(backplane.run, essential=True)],
        # {% endif %}
    )
