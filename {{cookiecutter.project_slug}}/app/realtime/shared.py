"""The parts that keep the state of the service."""

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
    """The parts that keep the state of the service. ``jobs`` keep them working.

    ``make_map`` takes the kind of the values, and returns the service's map for this kind.
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
