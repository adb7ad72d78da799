"""What the nodes of a service share. A node that is alone keeps it in its memory."""

from collections.abc import Sequence
from dataclasses import dataclass

from .backplane import Backplane
from .idempotency import Claims
from .jobs import Job
# {% if cookiecutter.rooms %}
from .rooms.history import History
from .rooms.presence import Presence
# {% endif %}
from .settings.settings import RealtimeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """How messages reach other nodes, and what all nodes know. ``jobs`` keep it working."""

    backplane: Backplane
    claims: Claims
    # {% if cookiecutter.rooms %}
    history: History
    presence: Presence
    # {% endif %}
    jobs: Sequence[Job] = ()


def in_memory(settings: RealtimeSettings) -> Shared:
    """Return what a single node needs."""
    backplane = Backplane()
    return Shared(
        backplane=backplane,
        claims=Claims(),
        # {% if cookiecutter.rooms %}
        history=History(backplane, settings),
        presence=Presence(backplane, settings),
        # {% endif %}
    )
