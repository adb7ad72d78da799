"""The presence of a single node."""

from collections.abc import Callable

import pytest

from app.realtime.rooms.history import MemoryHistory
from app.realtime.rooms.presence import LocalPresence
from app.realtime.rooms.rooms import Rooms

from ..live import make_settings
from .presence_contract import Node, PresenceContract


def make_node(**overrides: object) -> Node:
    """Return a node of its own."""
    settings = make_settings(**overrides)
    return Node(
        lambda delivery: Rooms(settings, MemoryHistory(settings), LocalPresence(settings), delivery)
    )


class TestLocalPresence(PresenceContract):
    """One node is both."""

    @pytest.fixture
    def here(self) -> Node:
        """Return a node."""
        return make_node()

    @pytest.fixture
    def there(self, here: Node) -> Node:
        """Return the same."""
        return here

    @pytest.fixture
    def make(self) -> Callable[..., Node]:
        """Return what makes another."""
        return make_node
