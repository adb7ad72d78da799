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


async def test_at_the_limit_the_oldest_is_removed() -> None:
    """Not the one that expires first: a claim on a key is short, but its request is in progress."""
    values = ExpiringMap(max_items=3)
    await values.put("year", "a", 31_536_000)
    await values.put("a", "a", 60)
    await values.put("claim", "b", 1)
    await values.put("a", "again", 60)
    await values.put("b", "c", 3_600)
    assert [await values.get(key) for key in ("year", "a", "claim", "b")] == [
        *(None, "again", "b", "c")
    ]
    await values.put("c", "d", 3_600)
    assert [await values.get(key) for key in ("claim", "a", "b", "c")] == [None, "again", "c", "d"]


async def test_what_has_expired_is_removed_before_anything_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000.0
    monkeypatch.setattr("app.realtime.expiring.monotonic", lambda: now)
    values = ExpiringMap(max_items=2)
    await values.put("old", "value", 60)
    await values.put("expired", "value", 1)
    now += 1
    await values.put("new", "value", 60)
    assert await values.get("old") == await values.get("new") == "value"


async def test_replaced_and_removed_values_take_no_memory() -> None:
    values = ExpiringMap(max_items=10)
    for _ in range(50):
        await values.put("replaced", "value", 60)
        await values.put("removed", "value", 60)
        await values.pop("removed")
    assert len(values._expiries) <= 20
    assert await values.get("replaced") == "value"


async def test_expired_values_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("app.realtime.expiring.monotonic", lambda: now)
    values = ExpiringMap()
    for number in range(100):
        await values.put(str(number), "value", 30)
    now += 30
    await values.put("new", "value", 30)
    assert len(values._items) == 1
