"""Presence in a real Valkey: nodes that die, freeze or stop, a server that forgets or is gone."""

import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import time
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from app.realtime.errors import Unavailable
from app.realtime.redis.connections import RedisCommand
from app.realtime.redis.rooms.local_presence import Argument, LocalPresence
from app.realtime.redis.rooms.presence import REMOVE_NODE, RENEWALS, SHARES
from app.realtime.rooms.history import room_channel
from app.realtime.rooms.options import make_rules
from dev import fresh_secrets

from ..client import DEADLINE_S, Client, connect_options
from ..live import make_settings, wait_until, wait_until_async
from ..recording_wire import open_connection
from ..rooms.presence_contract import ROOM, Visitor
from ..server.test_process import next_line, run_process
from .test_backplane import two_nodes
from .test_room_contracts import RedisNode, run_presence
from .valkey import Valkey

LEASE_S = 1.0
TIMEOUT_S = 0.3
"""The timeout in tests in which no answer comes."""


@contextmanager
def short_timeout(*nodes: RedisNode) -> Iterator[None]:
    """Shorten the timeouts of nodes in this context only: elsewhere, Valkey may pause."""

    def set_timeout(seconds: float) -> None:
        for node in nodes:
            node.backplane.client.timeout_s = node.presence._unwritten._pause_s = seconds

    set_timeout(TIMEOUT_S)
    try:
        yield
    finally:
        set_timeout(DEADLINE_S)


async def keys(redis: Redis) -> list[bytes]:
    """Return the keys of all rooms, but not the numbers of the nodes' last writes."""
    found: Any = await redis.keys("ws:{room:*")
    return [key for key in found if b":node:" not in key or await redis.hlen(key) > 1]


async def wait_until_seen(visitor: Visitor, expected: dict[str, int]) -> None:
    """Wait until presence lists exactly these users and connections."""

    async def is_seen() -> bool:
        try:
            return await visitor.seen() == expected
        except Unavailable:
            return False

    await wait_until_async(is_seen)


async def test_empty_rooms_leave_nothing_behind(valkey: Valkey) -> None:
    async with (
        run_presence(valkey) as here,
        run_presence(valkey) as there,
        Redis.from_url(valkey.url) as redis,
    ):
        visitors = [
            await node.visitor(user, room)
            for node in (here, there)
            for user in ("alice", "bob")
            for room in ("a", "b")
        ]
        await visitors[-1].seen()
        await visitors[0].seen()
        assert await keys(redis)
        for visitor in visitors:
            await visitor.leave()
        await wait_until(lambda: not (here.presence._rooms or there.presence._rooms))
        assert await keys(redis) == []


async def test_a_node_that_stops_takes_its_users_with_it(valkey: Valkey) -> None:
    async with Redis.from_url(valkey.url) as redis:
        async with run_presence(valkey) as here:
            alice = await here.visitor("alice")
            async with run_presence(valkey) as there:
                bob, carol = [await there.visitor(user) for user in ("bob", "carol")]
                assert await alice.seen() == {"alice": 1, "bob": 1, "carol": 1}
                bob.leave_now()
                while not there.is_writing():
                    await asyncio.sleep(0)
                carol.leave_now()  # too late for the writing that is under way
            assert await alice.seen() == {"alice": 1}
            alice.leave_now()
        assert await keys(redis) == []


async def test_a_dead_node_is_noticed_and_its_users_have_left(valkey: Valkey) -> None:
    async with (
        run_presence(valkey, lease_s=LEASE_S) as here,
        run_presence(valkey, lease_s=LEASE_S) as there,
    ):
        alice = await here.visitor("alice")
        for user in ("alice", "alice", "bob", "bob"):
            await there.visitor(user)
        assert await alice.heard() == ["bob joined"]
        await there.kill()
        await wait_until_async(lambda: has_heard(alice, "bob left"))
        assert await alice.heard() == ["bob joined", "bob left"]
        assert await alice.seen() == {"alice": 1}


async def test_a_malformed_dead_node_does_not_keep_the_others(valkey: Valkey) -> None:
    async with run_presence(valkey, lease_s=LEASE_S) as node, Redis.from_url(valkey.url) as redis:
        alice = await node.visitor("alice")
        await node.visitor("alice", "hall")
        await redis.set("ws:{room:hall}:node:dead", "junk")
        await redis.hset("ws:{room:lobby}:node:dead", mapping={"": 5, "zed": 1})
        await redis.hset("ws:{room:lobby}:users", "zed", "1 0 null")
        await redis.zadd("ws:{room:hall}:nodes", {"dead": 1})
        await redis.zadd("ws:{room:lobby}:nodes", {"dead": 1})
        await wait_until_async(lambda: has_heard(alice, "zed left"))

        async def is_removed() -> bool:
            return not await redis.exists("ws:{room:hall}:node:dead")

        await wait_until_async(is_removed)
        assert await alice.seen() == {"alice": 1}


async def has_heard(visitor: Visitor, event: str) -> bool:
    return event in await visitor.heard()


async def test_presence_does_not_list_users_of_dead_nodes(valkey: Valkey) -> None:
    """A lease that has ended counts at once, not when somebody renews the next one."""
    async with (
        run_presence(valkey) as here,
        run_presence(valkey) as there,
        Redis.from_url(valkey.url) as redis,
    ):
        alice = await here.visitor("alice")
        await there.visitor("bob")
        await wait_until_seen(alice, {"alice": 1, "bob": 1})
        await there.kill()
        node = there.presence._node
        await redis.zadd("ws:{room:lobby}:nodes", {node: 1})
        assert await alice.seen() == {"alice": 1}
        assert await alice.heard() == ["bob joined", "bob left"]


async def test_a_node_without_users_there_declares_only_a_very_late_node_dead(
    valkey: Valkey,
) -> None:
    async with (
        run_presence(valkey) as here,
        run_presence(valkey) as there,
        Redis.from_url(valkey.url) as redis,
    ):
        await there.visitor("bob")
        await there.kill()
        for lease_ends_ms, total in ((time() * 1000 - 1, 1), (1, 0)):
            await redis.zadd("ws:{room:lobby}:nodes", {there.presence._node: lease_ends_ms})
            assert (await here.rooms.presence(ROOM)).total == total
        assert await keys(redis) == []


async def test_when_all_nodes_die_redis_forgets(valkey: Valkey) -> None:
    async with (
        run_presence(valkey, lease_s=1.0) as node,
        Redis.from_url(valkey.url) as redis,
    ):
        alice = await node.visitor("alice")
        await alice.seen()
        assert await keys(redis)
        await node.kill()

        async def is_empty() -> bool:
            return await keys(redis) == []

        await wait_until_async(is_empty)


async def test_a_node_that_was_declared_dead_comes_back(valkey: Valkey) -> None:
    async with (
        run_presence(valkey) as here,
        run_presence(valkey) as there,
        Redis.from_url(valkey.url) as redis,
    ):
        alice = await here.visitor("alice")
        bob = await there.visitor("bob")
        await bob.seen()
        await redis.zadd("ws:{room:lobby}:nodes", {there.presence._node: 1})
        assert await alice.seen() == {"alice": 1}
        assert await redis.ttl("ws:{room:lobby}:node:" + there.presence._node) > 3_000
        assert await bob.seen() == {"alice": 1, "bob": 1}
        assert await alice.seen() == {"alice": 1, "bob": 1}
        assert await alice.heard() == ["bob joined", "bob left", "bob joined"]
        await bob.leave()
        assert await alice.heard() == ["bob joined", "bob left", "bob joined", "bob left"]
        assert resyncs(alice) == 0


async def test_after_an_outage_a_late_node_is_not_declared_dead(valkey: Valkey) -> None:
    async with (
        run_presence(valkey) as here,
        run_presence(valkey) as there,
        Redis.from_url(valkey.url) as redis,
    ):
        alice = await here.visitor("alice")
        bob = await there.visitor("bob")
        assert await bob.seen() == {"alice": 1, "bob": 1}
        for node in (here, there):  # an outage has outlasted the leases
            await redis.zadd("ws:{room:lobby}:nodes", {node.presence._node: 1})
        for visitor in (alice, bob, alice, bob):
            assert await visitor.seen() == {"alice": 1, "bob": 1}
        assert await alice.heard() == ["bob joined"]


@pytest.mark.parametrize("trouble", ["failed write", "gap"])
async def test_no_node_is_declared_dead_soon_after_an_outage(valkey: Valkey, trouble: str) -> None:
    """The node that is back first must not remove the others, which are about to renew."""
    async with (
        run_presence(valkey) as here,
        run_presence(valkey) as there,
        Redis.from_url(valkey.url) as redis,
    ):
        alice = await here.visitor("alice")
        await there.visitor("bob")
        assert await alice.seen() == {"alice": 1, "bob": 1}
        if trouble == "gap":
            is_over = asyncio.Event()
            here.backplane.after_gap(is_over.set)
            await redis.client_kill_filter(_type="pubsub")
            await asyncio.wait_for(is_over.wait(), DEADLINE_S)
        else:
            with short_timeout(here):
                valkey.freeze()
                alice.set_info_now("away")
                await wait_until(lambda: here.presence._is_failing)
                valkey.thaw()
        for node in (here, there):
            await node.settle()
            await redis.zadd("ws:{room:lobby}:nodes", {node.presence._node: 1})
        for _ in range(2):
            assert await alice.seen() == {"alice": 1, "bob": 1}
        assert await alice.heard() == ["bob joined"]


async def test_an_invalid_node_is_removed(valkey: Valkey) -> None:
    async with run_presence(valkey) as node, Redis.from_url(valkey.url) as redis:
        alice = await node.visitor("alice")
        for strange in (b"\xff", b"-"):
            await redis.zadd("ws:{room:lobby}:nodes", {strange: 1})
        assert await alice.seen() == {"alice": 1}
        assert len(await redis.zrange("ws:{room:lobby}:nodes", 0, -1)) == 1


async def test_a_forged_number_of_the_last_write_is_removed(valkey: Valkey) -> None:
    async with run_presence(valkey, lease_s=LEASE_S) as node, Redis.from_url(valkey.url) as redis:
        alice = await node.visitor("alice")
        assert await alice.seen() == {"alice": 1}
        with structlog.testing.capture_logs() as lines:
            await redis.hset("ws:{room:lobby}:node:" + node.presence._node, "", str(2**60))
            await wait_until_seen(alice, {"alice": 1})
        assert "malformed presence removed" in {line["event"] for line in lines}


async def test_a_node_stops_although_the_number_of_its_last_write_is_forged(
    valkey: Valkey,
) -> None:
    async with run_presence(valkey) as node, Redis.from_url(valkey.url) as redis:
        alice = await node.visitor("alice")
        assert await alice.seen() == {"alice": 1}
        await redis.hset("ws:{room:lobby}:node:" + node.presence._node, "", str(2**60))
        await node.stop()
        assert await keys(redis) == []


@pytest.mark.parametrize("lost", ["*", "*:users", "*:nodes", "*:node:*"])
async def test_lost_presence_is_written_again(valkey: Valkey, lost: str) -> None:
    async with (
        run_presence(valkey, lease_s=LEASE_S) as here,
        run_presence(valkey, lease_s=LEASE_S) as there,
        Redis.from_url(valkey.url) as redis,
    ):
        alice = await here.visitor("alice")
        bob = await there.visitor("bob")
        for user in range(5):
            await there.visitor(f"user-{user}")
        expected = {"alice": 1, "bob": 1} | {f"user-{user}": 1 for user in range(5)}
        await wait_until_seen(alice, expected)
        events = await alice.heard()
        await redis.delete(*await redis.keys(lost))
        for visitor in (alice, bob):
            await wait_until_seen(visitor, expected)
        assert await alice.heard() == events
        await wait_until(lambda: resyncs(alice) > 0)


def resyncs(visitor: Visitor) -> int:
    """Return how many times the visitor was told to ask again."""
    return visitor.frames.count({"type": "resync", "room": ROOM})


async def forget(redis: Redis) -> None:
    """Delete the presence of the room in Redis."""
    await redis.delete(*await redis.keys("ws:{room:lobby}:[un]*"))


async def members_seen(client: Client) -> set[str]:
    members = (await client.ask(type="presence", room=ROOM))["members"]
    return {member["user"] for member in members}


async def test_members_ask_again_when_redis_has_forgotten_who_leaves(valkey: Valkey) -> None:
    async with (
        two_nodes(valkey, presence_lease_s=3600) as (first, second),
        Redis.from_url(valkey.url) as redis,
    ):
        here, there = await first.connect("alice"), await second.connect("bob")
        for client in (here, there):
            await client.ask(type="join", room=ROOM)
        await here.receive("joined")
        await forget(redis)
        await there.ask(type="leave", room=ROOM)
        assert await here.receive() == {"type": "resync", "room": ROOM}
        assert await members_seen(here) == {here.user}


async def test_members_ask_again_when_a_node_returns_that_redis_has_forgotten(
    valkey: Valkey,
) -> None:
    """Its entries have expired, and no other node in the room has removed them."""
    async with (
        two_nodes(valkey, presence_lease_s=3600) as (first, second),
        Redis.from_url(valkey.url) as redis,
    ):
        here, there = await first.connect("alice"), await second.connect("bob")
        await there.ask(type="join", room=ROOM)
        assert await members_seen(there) == {there.user}
        await forget(redis)
        await here.ask(type="join", room=ROOM)
        assert await members_seen(here) == {here.user}
        presence: Any = second.service.rooms._presence
        presence.write_all_later()
        assert await here.receive() == {"type": "resync", "room": ROOM}
        assert await members_seen(here) == {here.user, there.user}


async def test_what_a_failover_has_lost_is_written_again(valkey: Valkey) -> None:
    """The replica takes over before it has the last writes."""
    async with (
        run_presence(valkey) as here,
        run_presence(valkey) as there,
        Redis.from_url(valkey.url) as redis,
    ):
        alice, bob = await here.visitor("alice"), await there.visitor("bob")
        await there.visitor("carol")
        assert await alice.seen() == {"alice": 1, "bob": 1, "carol": 1}
        replicated = {key: await redis.dump(key) for key in await redis.keys("ws:{room:lobby}:*")}
        await bob.leave()
        await there.visitor("dave")
        expected = {"alice": 1, "carol": 1, "dave": 1}
        assert await alice.seen() == expected
        for key, value in replicated.items():
            assert value is not None
            await redis.restore(key, 60_000, value, replace=True)
        there.presence.write_all_later()
        await wait_until(lambda: resyncs(alice) > 0)
        await wait_until_seen(alice, expected)


async def test_a_room_without_events_has_no_resync_of_presence(valkey: Valkey) -> None:
    async with (
        run_presence(valkey, max_members_for_presence_events=1) as node,
        Redis.from_url(valkey.url) as redis,
    ):
        alice = await node.visitor("alice")
        await node.visitor("bob")
        assert await alice.seen() == {"alice": 1, "bob": 1}
        await forget(redis)
        assert await alice.seen() == {"alice": 1, "bob": 1}
        assert await alice.heard() == []
        assert resyncs(alice) == 0


async def test_changes_during_an_outage_are_sent_afterwards(valkey: Valkey) -> None:
    async with (
        run_presence(valkey) as here,
        run_presence(valkey) as there,
        Redis.from_url(valkey.url) as redis,
    ):
        alice = await here.visitor("alice")
        bob = await there.visitor("bob")
        assert await alice.heard() == ["bob joined"]
        with short_timeout(here, there):
            valkey.freeze()
            with pytest.raises(Unavailable):
                await alice.seen()
            bob.leave_now()
            valkey.thaw()
            await wait_until_seen(alice, {"alice": 1})
        await wait_until_async(lambda: has_heard(alice, "bob left"))
        assert await redis.hgetall("ws:{room:lobby}:users") == {b"alice": b"1 0 null"}


async def test_a_user_who_leaves_and_returns_during_a_write_is_no_loss(valkey: Valkey) -> None:
    async with run_presence(valkey) as here, run_presence(valkey) as there:
        watcher = await here.visitor("watcher")
        for _ in range(5):
            alice = await there.visitor("alice")
            alice.leave_now()
            while not there.is_writing():
                await asyncio.sleep(0)
            await there.visitor("alice")
            await there.rooms.presence(ROOM)
            there.rooms.evict(ROOM, "alice")
            await wait_until_seen(watcher, {"watcher": 1})
        await watcher.heard()
        assert resyncs(watcher) == 0


async def test_presence_is_written_to_a_new_server(valkey: Valkey) -> None:
    async with (
        run_presence(valkey) as here,
        run_presence(valkey) as there,
    ):
        alice = await here.visitor("alice")
        bob = await there.visitor("bob")
        await wait_until_seen(alice, {"alice": 1, "bob": 1})
        with short_timeout(here, there):
            valkey.kill()
            with pytest.raises(Unavailable):
                await alice.seen()
            await valkey.start()
            for visitor in (alice, bob):
                await wait_until_seen(visitor, {"alice": 1, "bob": 1})


async def test_a_late_write_has_no_effect(valkey: Valkey) -> None:
    """A frozen server executes a command after its client has timed out and repeated it."""
    async with run_presence(valkey) as node, Redis.from_url(valkey.url) as redis:
        alice = await node.visitor("alice")
        assert await alice.seen() == {"alice": 1}
        room = node.presence._rooms[ROOM]
        room.unwritten["alice"] = ""
        report = room.report(next(node.presence._writes))
        late = node.presence.write_command(room_channel(ROOM), room.rules, report)
        await node.visitor("alice")
        assert await alice.seen() == {"alice": 2}
        assert await node.presence._client.send([late]) == [None]
        assert await redis.hgetall("ws:{room:lobby}:users") == {b"alice": b"2 0 null"}


async def test_a_write_after_the_last_user_has_left_has_no_effect(
    valkey: Valkey,
) -> None:
    async with run_presence(valkey) as node, Redis.from_url(valkey.url) as redis:
        alice = await node.visitor("alice")
        assert await alice.seen() == {"alice": 1}
        first: list[Argument] = [next(node.presence._writes), 0, 0, b"", "alice", 1, "", b""]
        rules = node.presence._rooms[ROOM].rules
        late = node.presence.write_command(room_channel(ROOM), rules, first)
        await alice.leave()
        await wait_until(lambda: not node.presence._rooms)
        assert await node.presence._client.send([late]) == [None]
        assert await keys(redis) == []


@pytest.mark.parametrize("key", ["users", "nodes", "node"])
async def test_invalid_values_in_one_room_do_not_stop_other_rooms(valkey: Valkey, key: str) -> None:
    async with (
        run_presence(valkey, lease_s=LEASE_S) as node,
        Redis.from_url(valkey.url) as redis,
    ):
        alice = await node.visitor("alice")
        await alice.seen()
        name = f"node:{node.presence._node}" if key == "node" else key
        await redis.set("ws:{room:lobby}:" + name, "garbage")
        bob = await node.visitor("bob", room="elsewhere")
        assert await bob.seen() == {"bob": 1}
        await wait_until_seen(alice, {"alice": 1})


@pytest.mark.parametrize(
    "fields",
    [
        {b"\xff": "1 0 null"},
        {"": "1 0 null"},
        {"eve": 1},
        {"eve": "-3 0 null"},
        {"eve": "1 0 {"},
        {"eve": "1 0 NaN"},
    ],
)
async def test_false_users_are_not_believed(valkey: Valkey, fields: dict[Any, Any]) -> None:
    async with (
        run_presence(valkey) as node,
        Redis.from_url(valkey.url) as redis,
    ):
        alice = await node.visitor("alice")
        await alice.seen()
        await redis.hset("ws:{room:lobby}:users", mapping=fields)
        with short_timeout(node), pytest.raises(Unavailable):
            await alice.seen()
        await redis.hdel("ws:{room:lobby}:users", *fields)
        assert await alice.seen() == {"alice": 1}


async def test_many_users_are_written_in_parts(valkey: Valkey) -> None:
    limits = {"max_members_listed": 5_000, "max_members_for_presence_events": 5_000}
    async with run_presence(valkey, **limits) as node:
        first = await node.visitor("first")
        await node.crowd(1_200)
        assert len(await first.seen()) == 1_201
        async with Redis.from_url(valkey.url) as redis:
            await redis.flushall()
        assert len(await first.seen()) == 1_201
        await first.heard()
        assert resyncs(first) == 1


async def test_users_of_a_killed_process_have_left(valkey: Valkey, tmp_path: Path) -> None:
    secrets = fresh_secrets()
    settings = make_settings(**{name.lower(): value for name, value in secrets.items()})
    environment = secrets | {
        "PORT": "0",
        "REDIS_URL": valkey.url,
        "REDIS_TIMEOUT_S": "5",
        "PRESENCE_LEASE_S": "4",
    }
    async with (
        run_process(tmp_path, **environment) as first,
        run_process(tmp_path, **environment) as second,
    ):
        clients = []
        for process, user in ((first, "alice"), (second, "bob")):
            port = int((await next_line(process, r"http://127\.0\.0\.1:(\d+)"))[1])
            client = await Client.open(await connect_options(settings, user, port=port))
            await wait_until_async(partial(is_joined, client))
            clients.append(client)
        here, there = clients
        assert (await here.receive("joined"))["user"] == there.user
        second.send_signal(signal.SIGKILL)
        assert await here.receive() == {"type": "left", "room": ROOM, "user": there.user}
        members = (await here.ask(type="presence", room=ROOM))["members"]
        assert members == [{"user": here.user, "connections": 1, "info": None}]
        await here.close()


async def is_joined(client: Client) -> bool:
    """Try to join: just after its start, a node may not be connected to Redis yet."""
    return bool((await client.ask(type="join", room=ROOM))["type"] == "ok")


async def test_a_room_that_is_new_while_its_batch_fails_is_kept(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch empties one room, and finds a dead node in another, whose removal fails."""
    async with run_presence(valkey) as node, Redis.from_url(valkey.url) as redis:
        alice, bob = await node.visitor("alice"), await node.visitor("bob", "hall")
        await redis.hset("ws:{room:lobby}:node:dead", mapping={"": 5, "zed": 1})
        await redis.hset("ws:{room:lobby}:users", "zed", "1 0 null")
        await redis.zadd("ws:{room:lobby}:nodes", {"dead": 1})
        failed, has_joined = asyncio.Event(), asyncio.Event()
        client = node.backplane.client
        send = client.send_in_background

        async def send_or_fail(commands: Sequence[RedisCommand]) -> list[Any]:
            if failed.is_set():
                await has_joined.wait()
            elif any(REMOVE_NODE._sha in command for command in commands):
                failed.set()
                raise TimeoutError
            return await send(commands)

        monkeypatch.setattr(client, "send_in_background", send_or_fail)
        monkeypatch.setattr(node.presence._unwritten, "_pause_s", 0.0)
        alice.set_info_now("here")
        bob.leave_now()
        await asyncio.wait_for(failed.wait(), DEADLINE_S)
        again = Visitor(node, "bob", "hall")
        await node.rooms.join(again.connection, "hall")
        has_joined.set()
        await node.settle()
        assert node.presence._rooms.keys() == {"lobby", "hall"}
        assert await again.seen() == {"bob": 1}
        await again.leave()
        assert await (await node.visitor("bob", "hall")).seen() == {"bob": 1}


async def test_each_room_is_renewed_once_in_an_interval_and_not_with_all_others(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_presence(valkey, lease_s=40.0) as node:
        rules = make_rules(make_settings())("lobby")
        names = [f"room-{number}" for number in range(500)]
        for name in names[1:]:
            node.presence.count(name, rules, open_connection(), 1, None)
        await node.settle()
        waited: list[float] = []
        renewed: list[list[str]] = []

        async def sleep(pause_s: float) -> None:
            waited.append(pause_s)
            batch: list[LocalPresence] = []
            while node.presence._unwritten:
                batch += node.presence._unwritten.take_batch()
            renewed.append([room.name for room in batch])
            if len(waited) == SHARES // 2:  # new, when half of the interval has passed
                node.presence.count(names[0], rules, open_connection(), 1, None)
            if len(waited) > 3 * SHARES:
                raise asyncio.CancelledError

        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "sleep", sleep)
            with pytest.raises(asyncio.CancelledError):
                await node.presence._renew()
        assert sum(waited[:SHARES]) == pytest.approx(40.0 / RENEWALS)
        interval = sorted(name for batch in renewed[-SHARES:] for name in batch)
        assert interval == sorted(names)
        assert max(map(len, renewed)) < len(names) / 4
