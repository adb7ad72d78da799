"""The backplane of a single node."""

import pytest

from app.backplane import ALL, Backplane, LocalBackplane, Publication, user_channel

from .backplane_contract import BackplaneContract


class TestLocalBackplane(BackplaneContract):
    """One node: both views are the same."""

    @pytest.fixture
    def backplane(self) -> Backplane:
        """Return the node."""
        return LocalBackplane()

    @pytest.fixture
    def other(self, backplane: Backplane) -> Backplane:
        """Return it again."""
        return backplane


def test_a_publication_goes_to_a_user_or_to_all() -> None:
    assert Publication(data=1).channel == ALL
    assert Publication(data=1, user="alice").channel == user_channel("alice")
