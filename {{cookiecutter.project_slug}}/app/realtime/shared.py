"""What the nodes of a service share. A node that is alone keeps it in its memory."""

from collections.abc import Sequence
from dataclasses import dataclass

from .backplane import Backplane, LocalBackplane
from .idempotency import Claims, MemoryClaims
from .jobs import Job
# {% if cookiecutter.rooms %}
from .rooms.history import History, MemoryHistory
from .rooms.presence import LocalPresence, Presence
# {% endif %}
from .settings import RealtimeSettings


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
    return Shared(
        backplane=LocalBackplane(),
        claims=MemoryClaims(),
        # {% if cookiecutter.rooms %}
        history=MemoryHistory(settings),
        presence=LocalPresence(settings),
        # {% endif %}
    )
