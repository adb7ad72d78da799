"""A node's feed of a room and a model of Redis: no order of events loses a message silently.

Races are rare with real servers. Here the order of events is random: messages arrive late or are
lost, reads are slow, the server loses its data, members join and leave.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from app.realtime.backplane import Envelope, Subscription
from app.realtime.errors import Unavailable
from app.realtime.protocol import ServerFrame
from app.realtime.redis.backplane import Resync
from app.realtime.redis.rooms.feed import RedisFeed, Stored, position_of
from app.realtime.redis.rooms.history import RedisHistory
from app.realtime.rooms.history import Position
from app.realtime.rooms.options import Rules, make_rules

from ..live import make_settings

STEPS = 120


@pytest.fixture(autouse=True)
def arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the time after which a message counts as lost."""
    monkeypatch.setattr("app.realtime.redis.rooms.feed.ARRIVAL_S", 0.01)


class Server:
    """Redis as one room sees it: it numbers, stores and publishes messages."""

    def __init__(self, *, keeps: int) -> None:
        self.keeps = keeps
        self.position = Position("epoch-0", 0)
        self.kept: list[Envelope] = []
        self.in_transit: deque[Envelope] = deque()
        self.published: dict[Position, object] = {}
        self.emptied = 0

    def publish(self, exclude: str | None = None) -> None:
        """Publish the next message: give it a number and store it."""
        self.position = self.position.next
        data = len(self.published)
        self.published[self.position] = data
        envelope = Envelope(
            sender=None,
            data=data,
            exclude=exclude,
            epoch=self.position.epoch,
            offset=self.position.offset,
        )
        self.kept = [*self.kept, envelope][-self.keeps :]
        self.in_transit.append(envelope)

    def empty(self) -> None:
        """Lose all data, which begins another epoch."""
        self.emptied += 1
        self.position = Position(f"epoch-{self.emptied}", 0)
        self.kept = []

    def read(self, since: Position) -> Stored:
        """Return the messages since a position."""
        missed = self.position.offset - since.offset
        if since.epoch != self.position.epoch or not 0 <= missed <= len(self.kept):
            return Stored(self.position, recovered=False)
        messages = tuple(self.kept[len(self.kept) - missed :])
        return Stored(self.position, messages, recovered=True)


class Node:
    """A node as its feed sees it, with random delays."""

    timeout_s = 0.05

    def __init__(self, server: Server, rng: random.Random) -> None:
        self.server = server
        self.rng = rng
        self.backplane = self
        self.rules_of = make_rules(make_settings())
        self.feed = RedisFeed("room", cast(RedisHistory, self), self._deliver, self._announce)
        self.members: set[Visitor] = set()
        self.is_behind = False

    def subscribe(self, subscription: Subscription) -> Subscription:
        """Keep the only subscription."""
        self.subscription = subscription
        return subscription

    async def confirm(self, subscription: Subscription) -> None:
        """Confirm it after a random delay."""
        await self._wait()

    async def load(self, room: str, rules: Rules, since: Position, last: int = 0) -> Stored:
        """Read after a random delay, and answer after another."""
        await self._wait()
        reading = self.server.read(since)
        await self._wait()
        return reading

    def heal_later(self, feed: RedisFeed) -> None:
        """Note that the feed has to heal."""
        self.is_behind = True

    async def heal(self) -> None:
        """Heal the feed until it misses nothing."""
        while self.is_behind:
            self.is_behind = False
            if not await self.feed.heal():
                self.is_behind = True
            await asyncio.sleep(0)

    def take_next(self) -> None:
        """Deliver the next message in transit."""
        if self.server.in_transit:
            self.subscription.deliver(self.server.in_transit.popleft())

    async def _wait(self) -> None:
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)

    def _deliver(self, envelope: Envelope) -> None:
        for member in self.members:
            if envelope.exclude != member.connection:
                member.hear(envelope)

    def _announce(self, frame: ServerFrame, position: Position) -> None:
        assert frame == Resync(room="room")
        for member in self.members:
            member.accept_gap(position)


@dataclass(eq=False)
class Visitor:
    """A client that joins and leaves, and checks that every gap is announced.

    It has all messages up to ``position``, which is None before the first join. A ``demanding`` one
    accepts no gap except messages that it published without echo, which are ``own``.
    """

    server: Server
    demanding: bool
    position: Position | None = None
    heard: int = 0
    visits: int = 0
    own: set[Position] = field(default_factory=set)

    @property
    def connection(self) -> str:
        """The id of the connection of this visit."""
        return f"{id(self)}-{self.visits}"

    def publish(self) -> None:
        """Publish without echo. The answer comes at once, and does not move the position."""
        self.server.publish(exclude=self.connection)
        self.own.add(self.server.position)

    def hear(self, envelope: Envelope) -> None:
        """Receive a message, which must be the next one that is not its own."""
        assert self.position is not None
        position = self.position.next
        while position != position_of(envelope) and position in self.own:
            position = position.next
        assert position_of(envelope) == position
        assert envelope.data == self.server.published[position]
        self.position = position
        self.heard += 1

    @property
    def is_up_to_date(self) -> bool:
        """Whether it misses no messages except its own."""
        position = self.position
        while position is not None and position != self.server.position:
            position = position.next if position.next in self.own else None
        return position is not None

    async def enter(self, node: Node) -> None:
        """Join, with a position if it has one."""
        stored = await node.feed.replay(self.position)
        self.visits += 1
        self._take(stored)
        node.members.add(self)

    def _take(self, stored: Stored) -> None:
        if stored.recovered:
            for envelope in stored.messages:
                self.hear(envelope)
            assert self.position == stored.position
        else:
            assert stored.messages == ()
            self.accept_gap(stored.position)

    def accept_gap(self, position: Position | None) -> None:
        """Continue at another position."""
        assert self.position is None or not self.demanding
        self.position = position


async def try_to(action: Callable[[], Awaitable[None]]) -> None:
    """Await an action that may fail because messages were lost; it is repeated later."""
    with suppress(Unavailable):
        await action()


class World:
    """A server, a node and clients, with random events.

    In a harsh world, the server keeps few messages, may be emptied, and not every loss is noticed.
    """

    def __init__(self, seed: int, *, harsh: bool) -> None:
        self.harsh = harsh
        self.server = Server(keeps=6 if harsh else STEPS)
        self.tasks: set[asyncio.Task[None]] = set()
        self.rng = random.Random(seed)
        self.node = Node(self.server, self.rng)
        self.visitors = [Visitor(self.server, demanding=not harsh) for _ in range(3)]
        self.entering: dict[Visitor, asyncio.Task[None]] = {}
        self.healing = False

    async def run(self) -> None:
        """Run random events, then deliver everything, and check that all clients are up to date."""
        events: list[Any] = [
            *2 * [self.server.publish],
            *2 * [self.publish_without_echo],
            *4 * [self.node.take_next],
            *2 * [self.join_or_leave],
            *2 * [self.heal],
            self.give_up,
            self.lose,
        ]
        async with asyncio.TaskGroup() as self.group:
            for _ in range(STEPS):
                self.rng.choice(events)()
                if self.harsh and self.rng.random() < 0.01:
                    self.server.empty()
                for _ in range(self.rng.randrange(3)):
                    await asyncio.sleep(0)
            while self.tasks:
                self.drain()
                self.heal()
                await asyncio.sleep(0)
        self.drain()
        await self.node.heal()
        assert self.harsh or all(visitor.is_up_to_date for visitor in self.node.members)
        await self.rest()

    def publish_without_echo(self) -> None:
        """Let a random member publish, if there is one."""
        members = [visitor for visitor in self.visitors if visitor in self.node.members]
        if members:
            self.rng.choice(members).publish()

    def join_or_leave(self) -> None:
        """Let a random visitor leave if it is a member, or else join."""
        visitor = self.rng.choice(self.visitors)
        if visitor in self.node.members:
            self.node.members.remove(visitor)
        elif visitor not in self.entering:
            task = self.entering[visitor] = self.begin(lambda: visitor.enter(self.node))
            task.add_done_callback(lambda _: self.entering.pop(visitor))

    def give_up(self) -> None:
        """Cancel a join, as if its client had disconnected."""
        if self.entering:
            self.rng.choice(list(self.entering.values())).cancel()

    def heal(self) -> None:
        """Let the feed read missed messages, if it knows of some."""
        if self.node.is_behind and not self.healing:
            self.healing = True
            self.begin(self._heal)

    async def _heal(self) -> None:
        await self.node.heal()
        self.healing = False

    def lose(self) -> None:
        """Lose all messages in transit."""
        if self.server.in_transit:
            self.server.in_transit.clear()
            if not self.harsh or self.rng.random() < 0.7:
                self.node.feed.fall_behind()

    def drain(self) -> None:
        """Deliver all messages in transit."""
        while self.server.in_transit:
            self.node.take_next()

    def begin(self, action: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Start an action in a task."""
        task = self.group.create_task(try_to(action))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def rest(self) -> None:
        """Let every visitor join, and deliver all messages to it."""
        for _ in range(3):  # a first try may find that messages were lost
            for visitor in self.visitors:
                if visitor not in self.node.members:
                    await try_to(lambda visitor=visitor: visitor.enter(self.node))  # type: ignore[misc]
                await self.node.heal()
        if self.harsh:
            self.server.publish()  # shows that earlier ones were lost
        self.drain()
        await self.node.heal()
        for visitor in self.visitors:
            assert visitor.is_up_to_date


async def test_what_arrives_while_missing_messages_are_read_is_delivered_after_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(keeps=STEPS)
    node, visitor = Node(server, random.Random(0)), Visitor(server, demanding=True)
    await visitor.enter(node)
    reading, answered = asyncio.Event(), asyncio.Event()

    async def load(room: str, rules: Rules, since: Position, last: int = 0) -> Stored:
        stored = server.read(since)
        reading.set()
        await answered.wait()
        return stored

    monkeypatch.setattr(node, "load", load)
    server.publish()
    server.in_transit.clear()
    node.feed.fall_behind()
    healing = asyncio.create_task(node.heal())
    await reading.wait()
    server.publish()
    node.take_next()
    assert visitor.heard == 0
    answered.set()
    await healing
    assert visitor.heard == 2


async def test_a_reader_whose_answer_is_older_than_that_of_the_first_reads_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(keeps=STEPS)
    node = Node(server, random.Random(0))
    answers: list[asyncio.Future[None]] = []

    async def load(room: str, rules: Rules, since: Position, last: int = 0) -> Stored:
        stored = server.read(since)
        answers.append(asyncio.get_running_loop().create_future())
        if len(answers) <= 2:
            await answers[-1]
        return stored

    async def enter() -> asyncio.Task[Stored]:
        count = len(answers)
        entering = asyncio.create_task(node.feed.replay(Position("epoch-0", 0)))
        while len(answers) == count:
            await asyncio.sleep(0)
        return entering

    monkeypatch.setattr(node, "load", load)
    older = await enter()
    server.publish()
    newer = await enter()
    for entering, answer in ((newer, answers[1]), (older, answers[0])):
        answer.set_result(None)
        stored = await entering
        assert stored.recovered
        assert [envelope.data for envelope in stored.messages] == [0]


@pytest.mark.parametrize("harsh", [False, True], ids=["calm", "harsh"])
@pytest.mark.parametrize("seeds", [range(start, start + 50) for start in range(0, 200, 50)])
async def test_no_message_is_duplicated_out_of_order_or_silently_lost(
    seeds: range, *, harsh: bool
) -> None:
    heard = 0
    for seed in seeds:
        world = World(seed, harsh=harsh)
        try:
            async with asyncio.timeout(10):
                await world.run()
        except BaseException as failure:
            failure.add_note(f"seed {seed}")
            raise
        heard += sum(visitor.heard for visitor in world.visitors)
    assert heard > 20 * len(seeds)
