"""Rooms on a real cluster: history and presence hold in each shard, and when one is taken over."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.realtime.redis.rooms.history import UNUSED_S, RedisHistory
from app.realtime.rooms.history import History, room_channel

from ..client import START_S, Client
from ..live import make_settings, run_service, wait_until, wait_until_async
from ..rooms.presence_contract import Node, PresenceContract
from .test_backplane import settings_for
from .test_cluster import Failure, fail_over, kill, run_node
from .test_room_contracts import RedisHistoryContract, RedisNode, running
from .valkey_cluster import NODE_TIMEOUT_MS, Cluster, run_cluster

pytestmark = pytest.mark.slow

ROOMS = [f"room-{number}" for number in range(6)]


@pytest.fixture(scope="module")
async def running_cluster() -> AsyncIterator[Cluster]:
    async with run_cluster() as cluster:
        yield cluster


@pytest.fixture
async def cluster(running_cluster: Cluster) -> Cluster:
    """Return a cluster that knows nothing."""
    await running_cluster.empty()
    return running_cluster


class TestClusterHistory(RedisHistoryContract):
    """Two nodes that know each other through a cluster alone."""

    @pytest.fixture
    async def history(self, cluster: Cluster) -> AsyncIterator[History]:
        """Run one node."""
        async with (
            run_node(cluster) as (backplane, _),
            running(backplane, history_messages=1_000) as history,
        ):
            yield history

    @pytest.fixture
    async def other(self, cluster: Cluster) -> AsyncIterator[History]:
        """Run another."""
        async with (
            run_node(cluster) as (backplane, _),
            running(backplane, history_messages=1_000) as history,
        ):
            yield history

    @pytest.fixture
    async def make(self, cluster: Cluster) -> AsyncIterator[Callable[..., History]]:
        """Return what makes the history of one more node."""
        async with run_node(cluster) as (backplane, _):
            yield lambda **overrides: RedisHistory(backplane, make_settings(**overrides))


async def test_positions_in_all_shards_are_renewed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.realtime.redis.rooms.history.RENEWALS", 100_000)
    async with run_node(cluster) as (backplane, _), running(backplane) as history:
        redis = backplane.client.redis
        keys = [backplane.client.key(room_channel(room), "position") for room in ROOMS]
        for room, key in zip(ROOMS, keys, strict=True):
            history.open(room, lambda _: None, lambda *_: None)
            await history.replay(room, None)
            await redis.expire(key, UNUSED_S // 2)

        async def are_renewed() -> bool:
            return all([await redis.ttl(key) > UNUSED_S // 2 for key in keys])

        await wait_until_async(are_renewed)


class TestClusterPresence(PresenceContract):
    """Two nodes that know each other through a cluster alone."""

    @pytest.fixture
    async def make(self, cluster: Cluster) -> AsyncIterator[Callable[..., Node]]:
        """Return what makes a node."""
        async with AsyncExitStack() as stack:
            backplanes = [(await stack.enter_async_context(run_node(cluster)))[0] for _ in "ab"]

            def make(number: int = 0, **overrides: Any) -> Node:
                node = RedisNode(backplanes[number], **overrides)
                stack.push_async_callback(node.stop)
                return node

            yield make

    @pytest.fixture
    async def here(self, make: Callable[..., Node]) -> Node:
        """Return one node."""
        return make(0)

    @pytest.fixture
    async def there(self, make: Callable[..., Node]) -> Node:
        """Return another."""
        return make(1)


async def join(client: Client, room: str, since: dict[str, object] | None = None) -> dict[str, Any]:
    """Join as soon as that is possible."""
    answer: dict[str, Any] = {}
    more = {"since": since} if since else {}

    async def is_joined() -> bool:
        answer.clear()
        answer.update(await client.ask(type="join", room=room, **more))
        return bool(answer["type"] == "ok")

    await wait_until_async(is_joined, START_S)
    return answer


async def test_rooms_survive_a_change_of_primaries(cluster: Cluster) -> None:
    await check_rooms(cluster, fail_over)


async def test_rooms_survive_the_loss_of_a_primary() -> None:
    async with run_cluster(NODE_TIMEOUT_MS) as cluster:
        await check_rooms(cluster, kill)


async def check_rooms(cluster: Cluster, fail: Failure) -> None:
    """Fail the primary of one room, and check all rooms.

    A replica begins new epochs, since it may lack the last messages of its primary.
    """
    settings = settings_for(cluster.url, redis_cluster=True, presence_lease_s=1)
    async with run_service(settings) as first, run_service(settings) as second:
        await wait_until(lambda: first.service.backplane.healthy)
        await wait_until(lambda: second.service.backplane.healthy)
        here, there = await first.connect("alice"), await second.connect("bob")
        positions = {}
        for room in ROOMS:
            for client in (here, there):
                positions[room] = await join(client, room)
        await fail(cluster, await cluster.primary_of("ws:0:{room:" + ROOMS[0] + "}"))
        for room in ROOMS:
            await check_room(here, there, room, positions[room])


async def check_room(here: Client, there: Client, room: str, position: dict[str, Any]) -> None:
    """Publish from one client to another, and check that presence lists both."""

    async def is_published() -> bool:
        answer = await here.ask(type="publish", room=room, data=f"said in {room}")
        return bool(answer["type"] == "ok")

    await wait_until_async(is_published, START_S)
    since = {name: position[name] for name in ("epoch", "offset")}
    answer = await join(there, room, since)
    assert answer["recovered"] is (answer["epoch"] == position["epoch"])
    if answer["recovered"]:
        while (await there.receive("message"))["data"] != f"said in {room}":
            pass

    async def both_are_known() -> bool:
        presence = await there.ask(type="presence", room=room)
        return bool(presence["type"] == "ok" and presence["total"] == 2)

    await wait_until_async(both_are_known, START_S)
