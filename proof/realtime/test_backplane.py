"""The backplane of a single node."""

import pytest

from app.realtime.backplane import Backplane

from .backplane_contract import BackplaneContract


class TestBackplane(BackplaneContract):
    """One node: both views are the same."""

    @pytest.fixture
    def backplane(self) -> Backplane:
        """Return the node."""
        return Backplane()

    @pytest.fixture
    def other(self, backplane: Backplane) -> Backplane:
        """Return the same node."""
        return backplane
