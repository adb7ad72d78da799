"""Values expire, and the oldest ones are evicted."""

import pytest

from app.realtime.expiring import ExpiringMap


async def test_values_expire_and_the_oldest_are_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("app.realtime.expiring.monotonic", lambda: now)
    values = ExpiringMap[int](max_items=3)
    for number, key in enumerate("abcd"):
        values.put(key, number, 10)
    assert [values.get(key) for key in "abcd"] == [None, 1, 2, 3]
    assert values.pop("c") == 2
    assert values.get("c") is None
    values.put("b", 4, 20)  # now the newest
    now += 10
    assert [values.get(key) for key in "bd"] == [4, None]
    assert values.pop("d") is None
    values.put("e", 5, 10)
    assert len(values) == 2
