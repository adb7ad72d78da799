"""The contract of every history; each implementation's test module inherits it."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from app.realtime.backplane import Envelope
# {% if cookiecutter.redis %}
from app.realtime.protocol import ServerFrame
# {% endif %}
from app.realtime.rooms.frames import message_frame
from app.realtime.rooms.history import NOWHERE, History, Position, Replay
from app.realtime.rooms.options import RoomOptions, make_rules

from ..client import DEADLINE_S
from ..live import wait_until, wait_until_async

ROOM = "lobby"


@dataclass
class Member:
    # {% if cookiecutter.redis %}
    """The member of the room, with the messages and announcements that it received."""

    history: History
    got: list[Envelope] = field(default_factory=list)
    news: list[ServerFrame] = field(default_factory=list)
    lost_before: list[Position] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.history.open(ROOM, self.got.append, self._announce)

    def _announce(self, frame: ServerFrame, position: Position) -> None:
        self.news.append(frame)
        self.lost_before.append(position)
    # {% else %}
    """The member of the room, with the messages that it received."""

    history: History
    got: list[Envelope] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.history.open(ROOM, self.got.append)
    # {% endif %}

    async def replay(self, since: Position | None, last: int = 0) -> Replay:
        """Return the room's position and the messages since another one, or the last ones."""
        return await self.history.replay(ROOM, since, last)

    def close(self) -> None:
        """Leave the room, as its only member."""
        self.history.close(ROOM)

    @property
    def data(self) -> list[object]:
        """The data of the received messages."""
        return [envelope.data for envelope in self.got]


def data_in(replay: Replay) -> list[object]:
    """Return the data of each message."""
    return [message.data for message in replay.messages]


async def say(history: History, *data: int) -> list[int]:
    """Publish some numbers, and return their offsets."""
    async with asyncio.timeout(DEADLINE_S):
        futures = [history.publish(ROOM, Envelope(sender="alice", data=each)) for each in data]
        return [(await future).offset for future in futures]


async def position_of(history: History) -> Position:
    """Return the room's position."""
    member = Member(history)
    replay = await member.replay(None)
    member.close()
    return replay.position


class HistoryContract:
    """The fixtures ``history`` and ``other`` are two nodes with the same rooms, or one node.

    ``make`` returns a node's history with other settings.
    """

    async def test_messages_are_numbered_without_holes(
        self, history: History, other: History
    ) -> None:
        member = Member(history)
        begin = (await member.replay(None)).position
        assert await say(other, 1, 2, 3) == [begin.offset + number for number in (1, 2, 3)]
        assert await say(history, 4) == [begin.offset + 4]
        await wait_until(lambda: len(member.got) == 4)
        assert member.data == [1, 2, 3, 4]
        positions = [Position(begin.epoch, begin.offset + number) for number in (1, 2, 3, 4)]
        assert [envelope.offset for envelope in member.got] == [at.offset for at in positions]
        assert (await member.replay(None)).position == positions[-1]

    async def test_a_publication_yields_its_position(
        self, history: History, other: History
    ) -> None:
        begin = await position_of(history)
        envelope = Envelope(sender="alice", data=1)
        assert await other.publish(ROOM, envelope) == begin.next
        assert await history.publish(ROOM, envelope, keep=False) == NOWHERE
        assert await history.publish(ROOM, envelope) == begin.next.next

    async def test_what_is_kept_of_a_room_is_read_without_members(
        self, history: History, other: History
    ) -> None:
        begin = await history.read(ROOM, None)
        assert (begin.frames, begin.recovered) == ((), None)
        await say(other, 1, 2, 3)
        for node in (history, other):
            end = await node.read(ROOM, None, 2)
            assert (data_in(end), end.recovered) == ([2, 3], None)
            assert end.position == Position(begin.position.epoch, begin.position.offset + 3)
            since = await node.read(ROOM, begin.position)
            assert (data_in(since), since.recovered) == ([1, 2, 3], True)
            assert since.position == end.position
        unknown = await history.read(ROOM, Position("another-epoch", 0))
        assert (unknown.frames, unknown.recovered) == ((), False)
        assert await position_of(history) == end.position

    async def test_a_rejoin_replays_exactly_the_missed_messages(
        self, history: History, other: History
    ) -> None:
        since = await position_of(history)
        await say(other, 1, 2, 3)
        member = Member(history)
        replay = await member.replay(since)
        assert data_in(replay) == [1, 2, 3]
        assert replay.recovered is True
        assert replay.position == Position(since.epoch, since.offset + 3)
        assert member.got == []
        await say(other, 4)
        await wait_until(lambda: member.data == [4])

    async def test_a_rejoin_at_the_current_position_replays_nothing(self, history: History) -> None:
        await say(history, 1)
        since = await position_of(history)
        replay = await Member(history).replay(since)
        assert (replay.position, replay.frames, replay.recovered) == (since, (), True)

    async def test_a_join_without_since_returns_the_position(self, history: History) -> None:
        await say(history, 1)
        replay = await Member(history).replay(None)
        assert replay.position == await position_of(history)
        assert (replay.frames, replay.recovered) == ((), None)

    async def test_the_last_messages_are_replayed(self, history: History, other: History) -> None:
        await say(other, 1, 2, 3)
        position = await position_of(history)
        member = Member(history)
        for last, expected in (0, []), (1, [3]), (2, [2, 3]), (2**53 - 1, [1, 2, 3]):
            replay = await member.replay(None, last)
            assert data_in(replay) == expected
            assert (replay.position, replay.recovered) == (position, None)
        assert member.got == []
        await say(other, 4)
        await wait_until(lambda: member.data == [4])
        assert data_in(await member.replay(None, 2)) == [3, 4]

    async def test_a_room_without_messages_has_no_last_ones(
        self, make: Callable[..., History]
    ) -> None:
        history = make()
        member = Member(history)
        assert await member.replay(None, 5) == await member.replay(None)
        await history.publish(ROOM, Envelope(sender="alice", data=1), keep=False)
        assert (await member.replay(None, 5)).frames == ()

    async def test_expired_messages_are_not_among_the_last(
        self, make: Callable[..., History]
    ) -> None:
        history = make(history_s=0.05)
        await say(history, 1)
        member = Member(history)

        async def is_forgotten() -> bool:
            return (await member.replay(None, 5)).frames == ()

        await wait_until_async(is_forgotten)

    async def test_the_last_messages_end_where_delivery_begins(
        self, history: History, other: History
    ) -> None:
        """Publish on another node while a member asks for the last messages at random times."""
        rng = random.Random(7)
        member = Member(history)
        begin = (await member.replay(None)).position
        publishing = asyncio.create_task(say(other, *range(1, 501)))
        while not publishing.done():
            replay = await member.replay(None, 5)
            newest = replay.position.offset - begin.offset
            assert data_in(replay) == list(range(1, newest + 1))[-5:]
            assert member.data == list(range(1, newest + 1))
            for _ in range(rng.randrange(20)):
                await asyncio.sleep(0)
        await publishing

    async def test_an_unknown_position_is_not_recovered(self, history: History) -> None:
        await say(history, 1)
        position = await position_of(history)
        member = Member(history)
        for since in (
            Position("another-epoch", position.offset),
            Position("another-epoch", 0),
            Position(position.epoch, position.offset + 1),
            Position(position.epoch, 2**53 - 1),
        ):
            replay = await member.replay(since)
            assert (replay.frames, replay.recovered) == ((), False)
            assert replay.position == position

    async def test_the_number_of_messages_is_limited(self, make: Callable[..., History]) -> None:
        history = make(history_messages=3)
        since = await position_of(history)
        await say(history, 1, 2, 3)
        assert (await Member(history).replay(since)).recovered is True
        await say(history, 4)
        replay = await Member(history).replay(since)
        assert (replay.frames, replay.recovered) == ((), False)
        replay = await Member(history).replay(Position(since.epoch, since.offset + 1))
        assert data_in(replay) == [2, 3, 4]

    async def test_without_history_missed_messages_are_reported(
        self, make: Callable[..., History]
    ) -> None:
        history = make(history_messages=0)
        member = Member(history)
        begin = (await member.replay(None)).position
        first, second = begin.next, begin.next.next
        assert await say(history, 1, 2) == [first.offset, second.offset]
        await wait_until(lambda: len(member.got) == 2)
        assert [each.offset for each in member.got] == [first.offset, second.offset]
        replay = await member.replay(second)
        assert (replay.frames, replay.recovered) == ((), True)
        replay = await member.replay(first)
        assert (replay.position, replay.frames, replay.recovered) == (second, (), False)

    async def test_the_size_of_messages_is_limited(self, make: Callable[..., History]) -> None:
        history = make(history_bytes=3_000)
        since = await position_of(history)
        for _ in range(4):
            await history.publish(ROOM, Envelope(sender="alice", data="x" * 1_000))
        assert (await Member(history).replay(since)).recovered is False
        replay = await Member(history).replay(Position(since.epoch, since.offset + 2))
        assert (len(replay.frames), replay.recovered) == (2, True)
        await history.publish(ROOM, Envelope(sender="alice", data="x" * 10_000))
        replay = await Member(history).replay(Position(since.epoch, since.offset + 4))
        assert replay.recovered is False

    @pytest.mark.parametrize("data", ["x", "é" * 40_000])
    async def test_a_replay_is_no_larger_than_the_history(
        self, make: Callable[..., History], data: str
    ) -> None:
        """Otherwise what a client has missed would close its connection."""
        limit = 5 * len(message_frame("r" * 64, Envelope(None, data)))
        history, room = make(history_bytes=limit), "r" * 64
        for _ in range(10):
            await history.publish(room, Envelope(sender=None, data=data))
        replay = await history.read(room, None, 1_000)
        assert len(replay.frames) > 1
        assert sum(map(len, replay.frames)) <= limit

    async def test_options_of_a_room_replace_the_settings(
        self, make: Callable[..., History]
    ) -> None:
        history = make(history_messages=1, history_bytes=500)
        asked = []

        def options(room: str) -> RoomOptions:
            asked.append(room)
            return RoomOptions(history_messages=30, history_bytes=100_000)

        history.rules_of = make_rules(history._settings, options)
        since = await position_of(history)
        await say(history, *range(30))
        assert data_in(await Member(history).replay(since)) == list(range(30))
        await say(history, 30)
        assert (await Member(history).replay(since)).recovered is False
        assert asked == [ROOM]

    @pytest.mark.parametrize("room", ["", ROOM])
    async def test_messages_expire(self, make: Callable[..., History], room: str) -> None:
        history = make(history_s=60 if room else 0.05)
        history.rules_of = make_rules(
            history._settings, lambda name: RoomOptions(history_s=0.05 if name == room else None)
        )
        member = Member(history)
        since = (await member.replay(None)).position
        await say(history, 1)

        async def is_forgotten() -> bool:
            return (await member.replay(since)).recovered is False

        await wait_until_async(is_forgotten)
        current = Position(since.epoch, since.offset + 1)
        assert (await member.replay(current)).recovered is True

    async def test_old_messages_expire_while_new_ones_arrive(
        self, make: Callable[..., History]
    ) -> None:
        history = make(history_s=0.1, history_messages=100_000)
        member = Member(history)
        since = (await member.replay(None)).position

        async def is_forgotten() -> bool:
            await say(history, 1)
            return (await member.replay(since)).recovered is False

        await wait_until_async(is_forgotten)

    async def test_ephemeral_messages_are_delivered_in_order_and_not_kept(
        self, history: History, other: History
    ) -> None:
        member = Member(history)
        begin = (await member.replay(None)).position
        futures = [
            other.publish(ROOM, Envelope(sender="alice", data=number), keep=number % 3 == 0)
            for number in range(9)
        ]
        offsets = [(await future).offset for future in futures]
        kept = [begin.offset + number for number in (1, 2, 3)]
        assert offsets == [kept[0], 0, 0, kept[1], 0, 0, kept[2], 0, 0]
        await wait_until(lambda: len(member.got) == 9)
        assert member.data == list(range(9))
        replay = await member.replay(begin)
        assert (data_in(replay), replay.recovered) == ([0, 3, 6], True)
        # {% if cookiecutter.redis %}
        assert member.news == []
        # {% endif %}

    async def test_an_ephemeral_message_leaves_no_trace_of_its_room(
        self, history: History, other: History
    ) -> None:
        before = await position_of(history)
        member = Member(history)
        await member.replay(None)
        await other.publish(ROOM, Envelope(sender="alice", data=1), keep=False)
        await wait_until(lambda: member.data == [1])
        assert member.got[0].offset == 0
        assert (await member.replay(before)).position == before

    async def test_nothing_is_delivered_after_close(self, history: History) -> None:
        member, other_member = Member(history), None
        await member.replay(None)
        member.close()
        other_member = Member(history)
        await other_member.replay(None)
        await say(history, 1)
        await wait_until(lambda: other_member.data == [1])
        assert member.got == []

    async def test_repeated_rejoins_miss_nothing(self, history: History, other: History) -> None:
        """Publish on both nodes while a member leaves and rejoins at random times."""
        rng = random.Random(7)
        since = await position_of(history)
        got: list[object] = []
        count = 300

        async def publish() -> None:
            for number in range(count):
                await rng.choice((history, other)).publish(ROOM, Envelope(sender="a", data=number))
                if rng.random() < 0.5:
                    await asyncio.sleep(0)

        publishing = asyncio.create_task(publish())
        while not publishing.done() or len(got) < count:
            member = Member(history)
            replay = await member.replay(since)
            assert replay.recovered is True
            got += data_in(replay)
            member.got.clear()  # they are in `replay`, too
            for _ in range(rng.randrange(20)):
                await asyncio.sleep(0)
            member.close()
            got += member.data
            since = replay.position
            if member.got:
                since = Position(since.epoch, member.got[-1].offset)
        await publishing
        assert got == list(range(count))
