"""A clock for the tests of limits."""

import pytest

from app.realtime.limits import budget


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock of budgets and rates."""
    clock = Clock()
    monkeypatch.setattr(budget, "monotonic", clock)
    return clock
