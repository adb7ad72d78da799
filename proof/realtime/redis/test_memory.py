"""The history of rooms in Redis has a total limit and one per user, and is evicted first."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis

from app.realtime.backplane import Envelope
from app.realtime.errors import Unavailable
from app.realtime.redis.map import RedisMap
from app.realtime.redis.rooms.history import RedisHistory
from app.realtime.redis.rooms.quota import ROOM_BYTES, HistoryQuota
from app.realtime.rooms.history import Position

from ..live import wait_until, wait_until_async
from ..rooms.history_contract import Member
from .test_room_contracts import run_history
from .valkey import Valkey

SIZE_BYTES = 1_000
ROOM = SIZE_BYTES + ROOM_BYTES


async def fill(history: RedisHistory, rooms: Iterable[str], sender: str | None = None) -> None:
    """Publish a message to each room."""
    for room in rooms:
        await history.publish(room, Envelope(sender, "x" * SIZE_BYTES))


async def rooms_with(redis: Redis, what: str) -> set[str]:
    """Return the rooms that have such a key."""
    keys: Any = await redis.keys("ws:{room:*}:" + what)
    return {key.decode().split(":")[2].rstrip("}") for key in keys}


def named(prefix: str, count: int) -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]


@pytest.mark.hostile(51)
async def test_the_least_recently_used_rooms_lose_their_history(
    valkey: Valkey, redis: Redis
) -> None:
    async with run_history(valkey, history_total_bytes=10 * ROOM + ROOM // 2) as history:
        await fill(history, named("room", 10))
        await fill(history, ["room-0"])  # is the newest now
        await fill(history, named("other", 3))
        expected = {"room-0", *named("room", 10)[5:], *named("other", 3)}

        async def is_bounded() -> bool:
            return await rooms_with(redis, "messages") == expected

        await wait_until_async(is_bounded)
        assert await rooms_with(redis, "position") == expected


@pytest.mark.hostile(51)
async def test_a_user_displaces_only_rooms_of_the_same_user(valkey: Valkey, redis: Redis) -> None:
    async with run_history(valkey, history_user_bytes=3 * ROOM) as history:
        await fill(history, ["quiet"], "alice")
        await fill(history, named("flood", 20), "mallory")
        await fill(history, named("backend", 20))
        kept = {"quiet", *named("flood", 20)[-2:], *named("backend", 20)}

        async def is_bounded() -> bool:
            return await rooms_with(redis, "messages") == kept

        await wait_until_async(is_bounded)


async def test_a_room_to_which_another_node_has_published_since_keeps_its_history(
    valkey: Valkey, redis: Redis
) -> None:
    async with (
        run_history(valkey) as there,
        run_history(valkey, history_total_bytes=3 * ROOM + ROOM // 2) as here,
    ):
        await fill(here, ["busy", "quiet"])
        await fill(there, ["busy"])
        await fill(here, named("other", 3))

        async def is_bounded() -> bool:
            return await rooms_with(redis, "messages") == {"busy", *named("other", 3)}

        await wait_until_async(is_bounded)


async def test_a_repetition_does_not_protect_its_room(valkey: Valkey, redis: Redis) -> None:
    async with run_history(valkey, history_total_bytes=2 * ROOM + ROOM // 2) as history:
        envelope = Envelope(None, "x")
        first = await history.publish("room", envelope, message_id="id")
        await fill(history, ["room"])
        assert await history.publish("room", envelope, message_id="id") == first
        await fill(history, named("other", 2))

        async def is_bounded() -> bool:
            return await rooms_with(redis, "messages") == set(named("other", 2))

        await wait_until_async(is_bounded)


@pytest.mark.hostile(51)
@pytest.mark.parametrize("owner", ["alice", "mallory", None])
async def test_a_room_belongs_to_the_user_who_began_it_on_any_node(
    valkey: Valkey, redis: Redis, owner: str | None
) -> None:
    async with (
        run_history(valkey) as there,
        run_history(valkey, history_user_bytes=3 * ROOM) as here,
    ):
        await fill(there, ["lobby"], owner)
        await fill(here, ["lobby"], "mallory")
        await fill(here, named("flood", 20), "mallory")
        kept = {*named("flood", 20)[-2:], *([] if owner == "mallory" else ["lobby"])}

        async def is_bounded() -> bool:
            return await rooms_with(redis, "messages") == kept

        await wait_until_async(is_bounded)


async def test_members_of_a_room_without_history_keep_their_position(
    valkey: Valkey, redis: Redis
) -> None:
    async with run_history(valkey, history_total_bytes=2 * ROOM) as history:
        member = Member(history)
        await member.replay(None)
        await fill(history, ["lobby", *named("other", 5)])

        async def is_removed() -> bool:
            return "lobby" not in await rooms_with(redis, "messages")

        await wait_until_async(is_removed)
        assert "lobby" in await rooms_with(redis, "position")
        await fill(history, ["lobby"])
        await wait_until(lambda: len(member.data) == 2)
        assert member.news == []


async def test_a_full_redis_gets_rid_of_history_first(valkey: Valkey, redis: Redis) -> None:
    # The interval is long enough for the node to notice in between that one quarter was enough.
    async with run_history(valkey, redis_probe_interval_s=2.0) as history:
        small = RedisMap(history.backplane.client, "ticket")
        rooms = named("room", 1_000)
        await asyncio.gather(
            *(history.publish(room, Envelope(None, "x" * SIZE_BYTES)) for room in rooms)
        )

        async def is_full() -> bool:
            used = (await redis.info("memory"))["used_memory"]
            await redis.config_set("maxmemory", used - 100 * SIZE_BYTES)
            return not await works()

        async def works() -> bool:
            with suppress(Unavailable):
                await small.put("ticket", "alice", 30)
                return await small.pop("ticket") == "alice"
            return False

        await wait_until_async(is_full)
        await wait_until_async(works)
        await wait_until(lambda: history.backplane.healthy)
        await fill(history, ["after"])
        left = await rooms_with(redis, "messages")
        assert {"room-999", "after"} <= left
        assert "room-0" not in left


async def test_a_new_room_does_not_exceed_the_memory_of_redis(valkey: Valkey, redis: Redis) -> None:
    async with run_history(valkey) as history:
        await redis.config_set("maxmemory", 1)
        with pytest.raises(Unavailable):
            await fill(history, ["new"])


@pytest.mark.hostile(51)
async def test_positions_count_after_their_messages_have_expired(
    valkey: Valkey, redis: Redis
) -> None:
    async def is_expired() -> bool:
        return not await rooms_with(redis, "messages")

    async def is_bounded() -> bool:
        return len(await rooms_with(redis, "position")) * ROOM_BYTES <= 10 * ROOM

    async with run_history(valkey, history_total_bytes=10 * ROOM, history_s=0.1) as history:
        for number in range(5):
            await fill(history, named(f"room-{number}", 10))
            await wait_until_async(is_expired)
        await wait_until_async(is_bounded)


def note(
    quota: HistoryQuota, room: str, owner: str, size_bytes: int, history_s: float
) -> list[str]:
    """Note a room at any position, and return the names of the rooms to remove."""
    unwanted = quota.note(room, Position("e", 1), owner, size_bytes, history_s)
    return [room for room, _ in unwanted]


def test_a_quota_forgets_messages_and_then_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other nodes may have written to the rooms since, so they are not removed."""
    now_s = 1_000.0
    monkeypatch.setattr("app.realtime.redis.rooms.quota.monotonic", lambda: now_s)
    quota = HistoryQuota(3 * ROOM_BYTES, 3 * ROOM_BYTES, position_s=600)
    note(quota, "old", "alice", ROOM_BYTES, 60)
    now_s += 61
    assert [note(quota, room, "alice", 0, 60) for room in ("one", "two")] == [[], []]
    now_s += 601
    assert [note(quota, room, "alice", 0, 60) for room in ("three", "four")] == [
        [],
        ["one"],
    ]


def test_a_quota_forgets_each_room_after_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1_000.0
    monkeypatch.setattr("app.realtime.redis.rooms.quota.monotonic", lambda: now_s)
    quota = HistoryQuota(2 * ROOM_BYTES, 2 * ROOM_BYTES, position_s=0)
    note(quota, "day", "alice", 0, 86_400)
    note(quota, "stream", "alice", 0, 10)
    now_s += 11
    assert note(quota, "new", "alice", 0, 10) == []
    assert note(quota, "newer", "alice", 0, 10) == ["day"]


def test_a_room_whose_next_epoch_another_user_begins_counts_for_that_user() -> None:
    quota = HistoryQuota(10 * ROOM_BYTES, 2 * ROOM_BYTES, position_s=0)
    for owner in ("alice", "bob"):
        note(quota, "lobby", owner, 0, 60)
    rooms = [("alice", "one"), ("alice", "two"), ("bob", "three"), ("bob", "four")]
    removed = [note(quota, room, user, 0, 60) for user, room in rooms]
    assert removed == [[], [], [], ["lobby"]]


def test_a_quota_keeps_nothing_of_removed_rooms() -> None:
    quota = HistoryQuota(10 * ROOM_BYTES, 3 * ROOM_BYTES, position_s=1)
    for number in range(1_000):
        note(quota, f"room-{number}", f"user-{number % 100}", 0, number % 3)
    assert len(quota._owners) == len(quota._positions) == len(quota._kept_s) == 10
    assert sum(map(len, quota._noted_at.values())) == 10
    assert len(quota._sizes) == len(quota._sums) == 11
