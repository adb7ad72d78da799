"""The parts that the nodes of a service share. A single node keeps them in its memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .backplane import Backplane
from .expiring import ExpiringMap
from .jobs import Job
# {% if cookiecutter.rooms %}
from .rooms.history import History
from .rooms.presence import Presence
# {% endif %}
from .settings.settings import RealtimeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The parts that all nodes share. ``jobs`` keep them working.

    ``make_map`` takes the kind of the values, and returns the map of all nodes for this kind.
    """

    backplane: Backplane
    make_map: Callable[[str], ExpiringMap]
    # {% if cookiecutter.rooms %}
    history: History
    presence: Presence
    # {% endif %}
    jobs: Sequence[Job] = ()


def in_memory(settings: RealtimeSettings) -> Shared:
    """Return the parts of a single node."""
    backplane = Backplane()
    return Shared(
        backplane=backplane,
        make_map=lambda kind: ExpiringMap(),
        # {% if cookiecutter.rooms %}
        history=History(backplane, settings),
        presence=Presence(backplane, settings),
        # {% endif %}
    )
