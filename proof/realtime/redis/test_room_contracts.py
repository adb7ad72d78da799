"""History and presence in a real Valkey keep their contracts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from app.realtime import Policy
from app.realtime.backplane import Envelope
from app.realtime.redis.backplane import RedisBackplane
from app.realtime.redis.rooms.history import RedisHistory
from app.realtime.redis.rooms.local_presence import LocalPresence
from app.realtime.redis.rooms.presence import RedisPresence
from app.realtime.rooms.history import NOWHERE, History, Position, Replay, room_channel
from app.realtime.rooms.options import make_rules
from app.realtime.rooms.rooms import Rooms

from ..client import DEADLINE_S
from ..live import make_settings, run_service, wait_until
from ..recording_wire import open_connection
from ..rooms.history_contract import ROOM, HistoryContract, Member, data_in, say
from ..rooms.presence_contract import Node, PresenceContract
from ..rooms.test_streams import follow_stream, keep_a_stream
from .test_backplane import settings_for
from .test_node import AT_REST, run_node
from .valkey import Valkey


@contextlib.asynccontextmanager
async def run_history(valkey: Valkey, **overrides: object) -> AsyncIterator[RedisHistory]:
    """Run a node with a history."""
    async with run_node(valkey) as (backplane, _), running(backplane, **overrides) as history:
        yield history


@contextlib.asynccontextmanager
async def running(backplane: RedisBackplane, **overrides: object) -> AsyncIterator[RedisHistory]:
    """Run the history of a node."""
    history = RedisHistory(backplane, make_settings(**overrides))
    healing = asyncio.create_task(history.run())
    try:
        yield history
    finally:
        healing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await healing


class RedisHistoryContract(HistoryContract):
    """The contract of nodes that share a Redis, in every topology."""

    async def test_a_message_with_the_id_of_an_earlier_one_is_not_sent_again(
        self, history: History, other: History
    ) -> None:
        member = Member(history)
        begin = (await member.replay(None)).position
        for node in (other, history, other):
            first = await node.publish(ROOM, Envelope(sender="alice", data=1), message_id="id-1")
            assert first == begin.next
        assert await say(history, 2) == [begin.offset + 2]
        await wait_until(lambda: len(member.got) == 2)
        assert member.data == [1, 2]
        assert data_in(await other.read(ROOM, begin)) == [1, 2]


class TestRedisHistory(RedisHistoryContract):
    """Two nodes that know each other through Redis alone."""

    @pytest.fixture
    async def history(self, empty_valkey: Valkey) -> AsyncIterator[History]:
        """Run one node."""
        async with run_history(empty_valkey, history_messages=1_000) as history:
            yield history

    @pytest.fixture
    async def other(self, empty_valkey: Valkey) -> AsyncIterator[History]:
        """Run another."""
        async with run_history(empty_valkey, history_messages=1_000) as history:
            yield history

    @pytest.fixture
    async def make(self, empty_valkey: Valkey) -> AsyncIterator[Callable[..., History]]:
        """Return what makes the history of one more node."""
        async with (
            run_node(empty_valkey) as (backplane, _),
            Redis.from_url(empty_valkey.url) as redis,
        ):
            await redis.flushall()
            yield lambda **overrides: RedisHistory(backplane, make_settings(**overrides))


async def test_a_join_waits_for_the_subscription(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_service(settings_for(shared_valkey)) as live:
        await wait_until(lambda: live.service.backplane.healthy)
        client, backplane = await live.connect(), live.service.backplane
        assert isinstance(backplane, RedisBackplane)
        monkeypatch.setattr(backplane, "_adjust_later", lambda channel: None)
        monkeypatch.setattr(backplane.client, "timeout_s", 0.2)
        assert (await client.ask(type="join", room="lobby"))["code"] == "unavailable"
        assert len(live.service.rooms) == 0


async def test_a_client_recovers_thousands_of_messages(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Policy, "room_options", keep_a_stream)
    async with run_service(settings_for(shared_valkey)) as live:
        await wait_until(lambda: live.service.backplane.healthy)
        await follow_stream(live)


class Events(History):
    """Stands for the history, so that Redis holds nothing but presence."""

    def publish(
        self, room: str, envelope: Envelope, *, keep: bool = True, message_id: str | None = None
    ) -> asyncio.Future[Position]:
        """Pass a message on without a number."""
        return super().publish(room, envelope, keep=False)

    async def replay(self, room: str, since: Position | None, last: int = 0) -> Replay:
        """Wait for the subscription."""
        await self.backplane.confirm(self.backplane.hosted[room_channel(room)])
        return Replay(NOWHERE)


class RedisNode(Node):
    """A node whose rooms Redis knows."""

    def __init__(
        self, backplane: RedisBackplane, *, lease_s: float = 60.0, **overrides: object
    ) -> None:
        settings = make_settings(presence_lease_s=lease_s, **overrides)
        self.backplane = backplane
        self.presence = RedisPresence(backplane, settings)
        super().__init__(
            lambda delivery: Rooms(settings, Events(backplane, settings), self.presence, delivery)
        )
        self._running = asyncio.create_task(self.presence.run())

    async def settle(self) -> None:
        """Wait until all is written."""
        rooms = self.presence._rooms
        await wait_until(lambda: not any(map(has_changes, rooms.values())))

    def is_writing(self) -> bool:
        """Return whether something is on its way to Redis."""
        return any(room._unconfirmed for room in self.presence._rooms.values())

    async def stop(self) -> None:
        """Stop, and remove this node's users from Redis."""
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.timeout(DEADLINE_S):
                await self._running

    async def kill(self) -> None:
        """Stop like a crash: this node's users stay in Redis until their lease expires."""
        self.presence._rooms.clear()
        while self.presence._unwritten:
            self.presence._unwritten.take_batch()
        await self.stop()


def has_changes(room: LocalPresence) -> bool:
    """Return whether Redis lacks some of the room's changes."""
    return bool(room.unwritten or room._unconfirmed)


@contextlib.asynccontextmanager
async def run_presence(
    valkey: Valkey, *, timeout_s: float = DEADLINE_S, **overrides: Any
) -> AsyncIterator[RedisNode]:
    """Run a node with presence, which asks Redis nothing else by itself."""
    async with run_node(valkey, redis_timeout_s=timeout_s, **AT_REST) as (backplane, _):
        node = RedisNode(backplane, **overrides)
        try:
            yield node
        finally:
            await node.stop()


async def test_changes_during_a_write_are_reported_in_the_next_one() -> None:
    room = LocalPresence("lobby", make_rules(make_settings())("lobby"), 10)
    first, second = open_connection(), open_connection()
    room.count(first, 1, None)
    assert room.report(1) == [1, 0, 0, b"", "alice", 1, first.id, b""]
    room.count(first, -1, None)
    room.confirm(1, [])
    assert room.report(2) == [2, 1, 0, b"", "alice", 0, first.id, b""]
    room.count(second, 1, None)
    room.confirm(0, [])
    *report, info = room.report(3)
    assert report == [3, 0, 0, b"", "alice", 1, second.id]
    assert str(info).endswith(" '")  # an info from before counts no more
    room.confirm(1, [])
    assert not has_changes(room)


@pytest.mark.parametrize("is_confirmed", [True, False])
async def test_the_first_of_several_connections_gets_no_event_of_its_own_user(
    is_confirmed: bool,
) -> None:
    room = LocalPresence("lobby", make_rules(make_settings())("lobby"), 10)
    first, second = open_connection(), open_connection()
    room.count(first, 1, None)
    room.count(second, 1, None)
    assert room.report(1) == [1, 0, 0, b"", "alice", 2, first.id, b""]
    room.count(second, -1, None)
    room.count(first, -1, None)
    if is_confirmed:
        room.confirm(1, [])
    cause = second if is_confirmed else first
    assert room.report(2) == [2, int(is_confirmed), 0, b"", "alice", 0, cause.id, b""]


async def test_a_room_without_presence_writes_nothing(empty_valkey: Valkey) -> None:
    async with run_presence(empty_valkey) as node, Redis.from_url(empty_valkey.url) as redis:
        node.set_options(presence=False)
        visitor = await node.visitor("alice", info="here")
        await visitor.set_info("there")
        await visitor.leave()
        assert not node.presence._rooms
        assert await redis.keys("*users*") == []


class TestRedisPresence(PresenceContract):
    """Two nodes that know each other through Redis alone."""

    @pytest.fixture
    async def here(self, empty_valkey: Valkey) -> AsyncIterator[Node]:
        """Run one node."""
        async with run_presence(empty_valkey) as node:
            yield node

    @pytest.fixture
    async def there(self, empty_valkey: Valkey) -> AsyncIterator[Node]:
        """Run another."""
        async with run_presence(empty_valkey) as node:
            yield node

    @pytest.fixture
    async def make(self, empty_valkey: Valkey) -> AsyncIterator[Callable[..., Node]]:
        """Return a function that makes one more node."""
        async with (
            run_node(empty_valkey, redis_timeout_s=DEADLINE_S) as (backplane, _),
            contextlib.AsyncExitStack() as stack,
        ):

            def make(**overrides: Any) -> Node:
                node = RedisNode(backplane, **overrides)
                stack.push_async_callback(node.stop)
                return node

            yield make
