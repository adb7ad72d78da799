"""Membership: limits, races, failures, and the removal of empty rooms."""

import asyncio
from typing import NoReturn

import pytest
from structlog.testing import capture_logs

# {% if cookiecutter.redis %}
from app.realtime.backplane import Backplane, Channel, Deliver, Envelope
# {% else %}
from app.realtime.backplane import Backplane, Channel, Envelope
# {% endif %}
from app.realtime.connections.delivery import Delivery
from app.realtime.errors import Forbidden, LimitExceeded, TooLarge, Unavailable
from app.realtime.http.backend import Publication
from app.realtime.protocol import TRY_AGAIN_LATER
# {% if cookiecutter.redis %}
from app.realtime.redis.backplane import Resync
from app.realtime.rooms.history import NOWHERE, Announce, History, Position, Replay, room_channel
# {% else %}
from app.realtime.rooms.history import NOWHERE, History, Position, Replay, room_channel
# {% endif %}
from app.realtime.rooms.presence import Member, Presence
from app.realtime.rooms.rooms import ROOM_NAME, NotJoined, Rooms

from ..live import Live, make_settings, wait_until
from ..recording_wire import RecordingWire, open_connection
from .presence_contract import users_in


@pytest.mark.parametrize("name", ["a", "Lobby", "game.1:team-2_x", "x" * 64])
def test_valid_names_are_accepted(name: str) -> None:
    assert ROOM_NAME.fullmatch(name)


@pytest.mark.hostile(51)
async def test_empty_rooms_are_freed(live: Live) -> None:
    history = live.service.rooms._history
    first = await live.connect("alice")
    second = await live.connect("alice")
    for number in range(10):
        await first.ask(type="join", room=f"room-{number}")
        await second.ask(type="join", room=f"room-{number}")
    assert len(live.service.rooms) == 10
    for number in range(5):
        await first.ask(type="leave", room=f"room-{number}")
    assert len(live.service.rooms) == 10
    await second.close()
    await wait_until(lambda: len(live.service.rooms) == 5)
    await first.close()
    await wait_until(lambda: len(live.service.rooms) == 0)
    assert all(log.subscription is None for log in history._logs.values())
    assert not live.service.rooms._joined


def make_rooms(history: History, delivery: Delivery | None = None) -> Rooms:
    """Return the rooms of a single node."""
    settings = make_settings()
    return Rooms(settings, history, Presence(history.backplane, settings), delivery or Delivery())


class SlowHistory(History):
    """A history that delays reads while held, and fails in an outage."""

    hold: asyncio.Event | None = None
    outage = False

    async def replay(self, room: str, since: Position | None, last: int = 0) -> Replay:
        """Wait while held; fail in an outage."""
        if self.hold is not None:
            await self.hold.wait()
        if self.outage:
            raise Unavailable
        return await super().replay(room, since, last)


async def test_no_message_is_delivered_before_the_join_is_complete() -> None:
    delivery = Delivery()
    rooms = make_rooms(history := SlowHistory(Backplane(), make_settings()), delivery)
    history.hold = asyncio.Event()
    wire = RecordingWire()
    connection = open_connection(wire, delivery)
    joining = asyncio.create_task(rooms.join(connection, "a"))
    await asyncio.sleep(0)
    await rooms.publish("a", "early")
    history.hold.set()
    await joining
    await delivery.catch_up()
    assert wire.writes == []
    await rooms.publish("a", "in time")
    await delivery.catch_up()
    assert len(wire.writes) == 1


async def test_a_connection_closed_during_its_join_does_not_enter() -> None:
    rooms = make_rooms(history := SlowHistory(Backplane(), make_settings()))
    history.hold = asyncio.Event()
    connection = open_connection()
    joining = asyncio.create_task(rooms.join(connection, "a"))
    await asyncio.sleep(0)
    connection.close(TRY_AGAIN_LATER)
    rooms.leave_all(connection)
    history.hold.set()
    await joining
    assert len(rooms) == 0


async def test_a_user_evicted_during_a_join_does_not_enter() -> None:
    delivery = Delivery()
    rooms = make_rooms(history := SlowHistory(Backplane(), make_settings()), delivery)
    member = open_connection(delivery=delivery)
    await rooms.join(member, "a")
    history.hold = asyncio.Event()
    other = open_connection(delivery=delivery, user="bob")
    newcomer = open_connection(delivery=delivery)
    joins = [asyncio.create_task(rooms.join(each, "a")) for each in (member, newcomer, other)]
    await asyncio.sleep(0)
    await rooms.evict("a", "alice")
    told = [[b'"evicted"' in frame for frame in each.outbox] for each in (member, newcomer, other)]
    assert told == [[True], [True], []]
    history.hold.set()
    results = await asyncio.gather(*joins, return_exceptions=True)
    assert [isinstance(result, Forbidden) for result in results] == [True, True, False]
    assert users_in(await rooms.presence("a")) == {"bob": 1}
    await rooms.join(newcomer, "a")
    assert users_in(await rooms.presence("a")) == {"bob": 1, "alice": 1}


class AskedHistory(History):
    """Notes what of a room's history is read."""

    def __init__(self) -> None:
        super().__init__(Backplane(), make_settings())
        self.asked: list[tuple[Position | None, int]] = []

    async def replay(self, room: str, since: Position | None, last: int = 0) -> Replay:
        """Note the question."""
        self.asked.append((since, last))
        return await super().replay(room, since, last)


async def test_a_member_that_joins_again_reads_no_messages() -> None:
    """It gets none, and so pays for none."""
    rooms = make_rooms(history := AskedHistory())
    connection = open_connection()
    position = (await rooms.join(connection, "a", last=5)).position
    for number in range(3):
        await rooms.publish("a", number)
    await rooms.join(connection, "a", last=5)
    again = await rooms.join(connection, "a", position)
    assert (again.recovered, again.frames) == (True, ())
    assert again.position.offset == 3
    assert history.asked == [(None, 5), (None, 0), (NOWHERE, 0)]


async def test_an_eviction_frees_an_empty_room() -> None:
    rooms = make_rooms(History(Backplane(), make_settings()))
    await rooms.join(open_connection(), "a")
    await rooms.evict("a", "alice")
    assert len(rooms) == 0
    await rooms.evict("a", "alice")


async def test_an_eviction_with_a_reason_that_is_too_large_evicts_nobody() -> None:
    """Anybody with access to Redis can write one."""
    rooms = make_rooms(history := History(Backplane(), make_settings()))
    await rooms.join(open_connection(), "a")
    reason = "x" * make_settings().max_unsent_bytes
    envelope = Envelope("alice", reason, event="evicted")
    with pytest.raises(TooLarge):
        await history.backplane.publish(room_channel("a"), envelope)
    assert users_in(await rooms.presence("a")) == {"alice": 1}


async def test_concurrent_joins_of_one_connection() -> None:
    rooms = make_rooms(History(Backplane(), make_settings()))
    connection = open_connection()
    await asyncio.gather(*(rooms.join(connection, name) for name in "abcab"))
    assert len(rooms) == 3
    rooms.leave_all(connection)
    assert len(rooms) == 0


async def test_concurrent_joins_keep_the_limit_of_rooms() -> None:
    rooms = make_rooms(history := SlowHistory(Backplane(), make_settings()))
    history.hold = asyncio.Event()
    limit = make_settings().max_rooms_per_connection
    connection = open_connection()
    joins = [rooms.join(connection, str(number)) for number in range(limit + 2)]
    joining = asyncio.gather(*joins, return_exceptions=True)
    await asyncio.sleep(0)
    history.hold.set()
    refused = [each for each in await joining if isinstance(each, LimitExceeded)]
    assert (len(refused), len(rooms)) == (2, limit)


async def test_a_failed_join_does_not_affect_an_earlier_one() -> None:
    history = SlowHistory(Backplane(), make_settings())
    rooms = make_rooms(history)
    member, newcomer = open_connection(), open_connection(user="bob")
    await rooms.join(member, "a")
    history.outage = True
    for connection in (member, newcomer):
        with pytest.raises(Unavailable):
            await rooms.join(connection, "a")
    assert users_in(await rooms.presence("a")) == {"alice": 1}
    with pytest.raises(NotJoined):
        rooms.check_joined(newcomer, "a")
    with pytest.raises(Unavailable):
        await rooms.join(newcomer, "b")
    assert len(rooms) == 1


# {% if cookiecutter.redis %}
class LosingHistory(History):
    """A history that announces a lost message on demand."""

    announce: Announce

    def open(self, room: str, deliver: Deliver, announce: Announce) -> None:
        """Keep the callback that announces a loss."""
        super().open(room, deliver, announce)
        self.announce = announce


async def test_a_rejoin_across_an_announced_loss_is_not_recovered() -> None:
    delivery = Delivery()
    rooms = make_rooms(history := LosingHistory(Backplane(), make_settings()), delivery)
    member = open_connection(delivery=delivery)
    begin = (await rooms.join(member, "a")).position
    for number in range(3):
        await rooms.publish("a", number)
    assert (await rooms.join(member, "a", begin)).recovered is True
    position = begin.next.next
    history.announce(Resync(room="a"), position)
    for since, recovered in ((begin, False), (begin.next, False), (position, True)):
        replay = await rooms.join(member, "a", since)
        assert (replay.frames, replay.recovered) == ((), recovered)


# {% endif %}
@pytest.mark.hostile(51)
async def test_all_rooms_are_left_even_if_the_events_cannot_be_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history = History(Backplane(), make_settings())
    rooms = make_rooms(history)
    connection = open_connection()
    for name in ("a", "b", "c"):
        await rooms.join(connection, name)

    def fail(channel: Channel, envelope: Envelope) -> NoReturn:
        raise RuntimeError

    monkeypatch.setattr(history.backplane, "publish", fail)
    rooms.leave_all(connection)
    assert len(rooms) == 0
    assert not rooms._joined
    assert not rooms._presence._users
    assert all(log.subscription is None for log in history._logs.values())


async def test_all_connections_are_evicted_even_if_presence_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rooms = make_rooms(history := SlowHistory(Backplane(), make_settings()))
    *members, newcomer = connections = [open_connection() for _ in range(3)]
    for connection in members:
        await rooms.join(connection, "a")
    history.hold = asyncio.Event()
    joining = asyncio.create_task(rooms.join(newcomer, "a"))
    await asyncio.sleep(0)

    def fail(*_: object) -> NoReturn:
        raise RuntimeError

    monkeypatch.setattr(rooms._presence, "count", fail)
    with capture_logs() as lines:
        await rooms.evict("a", "alice")
    assert [line["event"] for line in lines] == ["leaving a room failed"] * 2
    assert all(b'"evicted"' in each.outbox[-1] for each in connections)
    history.hold.set()
    with pytest.raises(Forbidden):
        await joining
    assert len(rooms) == 0


def test_a_publication_has_one_target() -> None:
    with pytest.raises(ValueError, match="not both"):
        Publication(data=1, room="a", user="alice")


async def test_the_team_reads_members_and_messages(live: Live) -> None:
    client = await live.connect("alice")
    await client.ask(type="join", room="read", info="here")
    await client.ask(type="publish", room="read", data={"n": 1})
    rooms = live.service.rooms
    begin = await rooms.publish("read", ["n", 2])
    history = await rooms.history("read", last=2)
    assert history.position == begin
    assert [(each.sender, each.data, each.offset) for each in history.messages] == [
        (client.user, {"n": 1}, 1),
        (None, ["n", 2], 2),
    ]
    assert (await rooms.history("read", begin)).messages == []
    presence = await rooms.presence("read")
    member = Member(user=client.user, connections=1, info="here")
    assert (presence.members, presence.total) == ([member], 1)
