"""Presence against a simple model: right after joins, leaves, crashes and losses in any order.

Hypothesis draws the events, the same ones in every run, and minimizes a sequence that fails.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable
from functools import partial
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from app.realtime.rooms.rooms import Rooms

from ..client import DEADLINE_S
from ..live import wait_until
from ..rooms.presence_contract import ROOM, Visitor
from .test_room_contracts import RedisNode, run_presence
from .valkey import Valkey, run_valkey

pytestmark = pytest.mark.slow

USERS = st.sampled_from(["alice", "bob", "carol"])
KEYS = "ws:{room:lobby}:"
KINDS = st.sampled_from(["*", "users", "nodes", "node:*"])

Result = TypeVar("Result")


async def within_deadline(work: Awaitable[Result]) -> Result:
    """Wait with a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        return await work


class PresenceMachine(RuleBasedStateMachine):
    """Three nodes, of which the first has a watcher in the room, who never leaves."""

    visitors = Bundle("visitors")

    def __init__(self, runner: asyncio.Runner, valkey: Valkey) -> None:
        super().__init__()
        self.runner = runner
        self.valkey = valkey
        self.stack = contextlib.AsyncExitStack()
        self.nodes: list[RedisNode] = []
        self.present: dict[Visitor, RedisNode] = {}
        self.infos: dict[str, tuple[RedisNode, int]] = {}
        """The newest info of users who have been at the node since it was set."""
        self.updates = 0

    def do(self, work: Awaitable[Result]) -> Result:
        """Run the event loop until this is done."""
        return self.runner.run(within_deadline(work))

    @initialize()
    def begin(self) -> None:
        self.do(self._begin())

    async def _begin(self) -> None:
        self.redis = await self.stack.enter_async_context(Redis.from_url(self.valkey.url))
        await self.redis.flushall()
        for _ in range(3):
            await self._start_node()
        self.watcher = await self.nodes[0].visitor("watcher")

    async def _start_node(self) -> None:
        node = await self.stack.enter_async_context(run_presence(self.valkey))
        self.nodes.append(node)

    @rule(target=visitors, number=st.integers(0, 2), user=USERS)
    def enter(self, number: int, user: str) -> Visitor:
        return self.do(self._enter(self.nodes[number], user))

    async def _enter(self, node: RedisNode, user: str) -> Visitor:
        visitor = Visitor(node, user, ROOM)
        await node.rooms.join(visitor.connection, ROOM)
        self.present[visitor] = node
        return visitor

    @rule(visitor=consumes(visitors))
    def leave(self, visitor: Visitor) -> None:
        if self.present.pop(visitor, None):
            self.do(self._leave(visitor))

    async def _leave(self, visitor: Visitor) -> None:
        visitor.leave_now()
        self._forget_infos()

    @rule(number=st.integers(0, 2), user=USERS)
    def evict(self, number: int, user: str) -> None:
        """Have a node take a user out of the room, wherever the user is."""
        self.do(self._evict(self.nodes[number], user))

    async def _evict(self, node: RedisNode, user: str) -> None:
        await node.rooms.evict(ROOM, user)
        evicted = [each for each in self.present if each.connection.user == user]
        for visitor in evicted:
            rooms = self.present.pop(visitor).rooms
            await wait_until(partial(_has_left, rooms, visitor))
        for visitor in (self.watcher, *self.present):  # now every node has handled the eviction
            await visitor.heard()
        self._forget_infos()

    def _forget_infos(self) -> None:
        """Forget the infos of users who are not where they were set: these may be lost."""
        there = {(visitor.connection.user, node) for visitor, node in self.present.items()}
        kept = [user for user, (node, _) in self.infos.items() if (user, node) in there]
        self.infos = {user: self.infos[user] for user in kept}

    @rule(visitor=visitors)
    def update(self, visitor: Visitor) -> None:
        """Change the info of a user; the watcher is told of it once."""
        if visitor in self.present:
            self.do(self._update(visitor))

    async def _update(self, visitor: Visitor) -> None:
        self.updates += 1
        visitor.set_info_now(self.updates)
        self.infos[visitor.connection.user] = self.present[visitor], self.updates
        await self._settle()
        told = [info for _, _, info in await self.watcher.told()]
        assert told.count(self.updates) == 1

    @rule(number=st.integers(1, 2))
    def die(self, number: int) -> None:
        """Have a node die, its lease end, and another one take its place."""
        self.do(self._die(self.nodes.pop(number)))

    async def _die(self, node: RedisNode) -> None:
        await node.kill()
        await self.redis.zadd(KEYS + "nodes", {node.presence._node: 1}, xx=True)
        self.present = {each: at for each, at in self.present.items() if at is not node}
        self._forget_infos()
        await self._start_node()

    @rule(kind=KINDS)
    def forget(self, kind: str) -> None:
        """Delete some keys in Redis; no user may leave because of that."""
        self.do(self._forget(kind))

    async def _forget(self, kind: str) -> None:
        await self._settle()
        if keys := await self.redis.keys(KEYS + kind):
            await self.redis.delete(*keys)
        for node in self.nodes:
            node.presence.write_all_later()
        await self._settle()

    @rule()
    def check(self) -> None:
        """Compare presence and events with the model."""
        self.do(self._check())

    async def _settle(self) -> None:
        for _ in range(2):  # other nodes have to write again what one has found lost
            for node in self.nodes:
                await node.settle()
                await node.rooms.presence(ROOM)  # once it has written again what was lost

    async def _check(self) -> None:
        await self._settle()
        there = Counter(visitor.connection.user for visitor in self.present)
        assert await self.watcher.seen() == dict(there) | {"watcher": 1}
        infos = await self.watcher.infos()
        assert {user: infos[user] for user in self.infos} == {
            user: info for user, (_, info) in self.infos.items()
        }
        heard: set[str] = set()
        for event in await self.watcher.heard():
            user, what = event.split()
            if what == "updated":
                assert user in heard
                continue
            assert (user in heard) == (what == "left"), "told twice"
            heard ^= {user}
        assert heard == set(there)

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())


def _has_left(rooms: Rooms, visitor: Visitor) -> bool:
    return ROOM not in rooms._joined.get(visitor.connection.id, ())


def test_presence_agrees_with_a_simple_model() -> None:
    with asyncio.Runner() as runner:
        run = run_valkey()
        valkey = runner.run(run.__aenter__())
        try:
            run_state_machine_as_test(
                partial(PresenceMachine, runner, valkey),  # type: ignore[arg-type]
                settings=settings(
                    max_examples=20, stateful_step_count=25, deadline=None, derandomize=True
                ),
            )
        finally:
            runner.run(run.__aexit__(None, None, None))
