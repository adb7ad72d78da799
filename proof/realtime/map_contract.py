"""The contract of every expiring map. `test_expiring` and its siblings run it."""

import asyncio

from app.realtime.expiring import ExpiringMap

from .live import wait_until_async

SOON_S = 0.02


class MapContract:
    """The fixture ``values`` is an empty map."""

    async def test_a_value_is_kept_until_it_is_replaced_or_removed(
        self, values: ExpiringMap
    ) -> None:
        await values.put("key", "first", 60)
        await values.put("key", "sécond", 60)
        assert await values.get("key") == "sécond"
        assert await values.pop("key") == "sécond"
        assert await values.get("key") is None
        assert await values.pop("key") is None

    async def test_keys_are_independent(self, values: ExpiringMap) -> None:
        for key in ("a", "b", "a:b"):
            assert await values.add(key, key, 60) is None
        assert [await values.pop(key) for key in ("a", "b", "a:b")] == ["a", "b", "a:b"]

    async def test_only_the_first_value_is_added(self, values: ExpiringMap) -> None:
        added = await asyncio.gather(*(values.add("key", str(n), 60) for n in range(5)))
        assert added.count(None) == 1
        assert set(added) - {None} == {await values.get("key")}

    async def test_a_value_is_removed_by_one_of_many(self, values: ExpiringMap) -> None:
        await values.put("key", "value", 60)
        removed = await asyncio.gather(*(values.pop("key") for _ in range(5)))
        assert removed.count("value") == 1

    async def test_a_value_expires(self, values: ExpiringMap) -> None:
        await values.put("long", "value", 60)
        assert await values.add("short", "first", SOON_S) is None

        async def is_added() -> bool:
            return await values.add("short", "second", 60) is None

        await wait_until_async(is_added)
        assert await values.get("short") == "second"
        assert await values.get("long") == "value"
