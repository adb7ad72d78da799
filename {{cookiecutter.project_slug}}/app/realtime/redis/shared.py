"""What the nodes of a service share through Redis."""

from collections.abc import Callable
from functools import partial

from ..connections.delivery import Delivery
from ..jobs import Job
from ..metrics import Metrics
from ..settings.settings import RealtimeSettings
from ..shared import Shared
from .backplane import RedisBackplane
from .client import RedisClient
from .map import RedisMap
# {% if cookiecutter.rooms %}
from .rooms.history import RedisHistory
from .rooms.presence import RedisPresence
# {% endif %}


def in_redis(
    client: RedisClient,
    settings: RealtimeSettings,
    metrics: Metrics,
    delivery: Delivery,
    after_gap: Callable[[], None],
) -> Shared:
    """Return the shared parts; call ``after_gap`` when messages may have been lost."""
    backplane = RedisBackplane(client, settings, metrics, delivery)
    backplane.after_gap(after_gap)
    # {% if cookiecutter.rooms %}
    history = RedisHistory(backplane, settings)
    presence = RedisPresence(backplane, settings)
    parts = (backplane, history, presence)
    # {% else %}
    parts = (backplane,)
    # {% endif %}
    return Shared(
        backplane=backplane,
        make_map=partial(RedisMap, client),
        # {% if cookiecutter.rooms %}
        history=history,
        presence=presence,
        # {% endif %}
        jobs=[Job(part.run, essential=True) for part in parts],
    )
