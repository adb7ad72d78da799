"""The presence of a single node."""

from collections.abc import Callable

import pytest

from app.realtime.backplane import Backplane
from app.realtime.rooms.history import History
from app.realtime.rooms.presence import Presence
from app.realtime.rooms.rooms import Rooms

from ..live import make_settings
from .presence_contract import Node, PresenceContract


def make_node(**overrides: object) -> Node:
    """Return a new node."""
    settings, backplane = make_settings(**overrides), Backplane()
    history, presence = History(backplane, settings), Presence(backplane, settings)
    return Node(lambda delivery: Rooms(settings, history, presence, delivery))


class TestPresence(PresenceContract):
    """One node: both views are the same."""

    @pytest.fixture
    def here(self) -> Node:
        """Return a node."""
        return make_node()

    @pytest.fixture
    def there(self, here: Node) -> Node:
        """Return the same node."""
        return here

    @pytest.fixture
    def make(self) -> Callable[..., Node]:
        """Return a factory of nodes."""
        return make_node
