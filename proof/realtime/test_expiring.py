"""The expiring map of a single node."""

import pytest

from app.realtime.expiring import ExpiringMap

from .map_contract import MapContract


class TestExpiringMap(MapContract):
    """A single node."""

    @pytest.fixture
    def values(self) -> ExpiringMap:
        """Return an empty map."""
        return ExpiringMap()


async def test_at_the_limit_the_oldest_are_removed() -> None:
    values = ExpiringMap(max_items=3)
    for key in "abcd":
        await values.put(key, key, 60)
    assert [await values.get(key) for key in "abcd"] == [None, "b", "c", "d"]
    await values.put("b", "b", 60)  # now the newest
    await values.put("e", "e", 60)
    assert [await values.get(key) for key in "bcd"] == ["b", None, "d"]


async def test_expired_values_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("app.realtime.expiring.monotonic", lambda: now)
    values = ExpiringMap()
    for number in range(100):
        await values.put(str(number), "value", 30)
    now += 30
    await values.put("new", "value", 30)
    assert len(values._items) == 1
