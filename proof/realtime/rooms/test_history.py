"""The history of a single node."""

import asyncio
import sys
from collections.abc import Callable
from inspect import getfile
from types import FrameType
from typing import Any, cast

import pytest
from pydantic import JsonValue
from pydantic_core import PydanticSerializationError

from app.realtime.backplane import Backplane, Envelope
from app.realtime.rooms.history import SWEPT_AT_ONCE, History
from app.realtime.rooms.options import RoomOptions, make_rules

from ..live import make_settings, wait_until
from .history_contract import ROOM, HistoryContract, Member, data_in, position_of, say


class TestHistory(HistoryContract):
    """One node: both views are the same."""

    @pytest.fixture
    def make(self) -> Callable[..., History]:
        """Return a factory of a node's history."""
        return lambda **overrides: History(Backplane(), make_settings(**overrides))

    @pytest.fixture
    def history(self, make: Callable[..., History]) -> History:
        """Return the node's history."""
        return make(history_messages=1_000)

    @pytest.fixture
    def other(self, history: History) -> History:
        """Return the same history."""
        return history


class Clock:
    """Replaces the clock of the history; only the test advances it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1_000.0
        monkeypatch.setattr("app.realtime.rooms.history.monotonic", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_an_empty_room_is_forgotten_after_its_history_expires() -> None:
    history = History(Backplane(), make_settings(history_s=0.05))
    member = Member(history)
    await say(history, 1)
    member.close()
    await wait_until(lambda: len(history._logs) == 0)
    assert history._size_bytes == 0
    assert not history._sweeping_loops
    assert not history._by_use


def test_rooms_are_forgotten_after_a_second_start_in_another_event_loop() -> None:
    """As with FastAPI's ``TestClient``, which starts an event loop for each of its blocks."""
    history = History(Backplane(), make_settings(history_s=0.05))

    async def publish(room: str) -> None:
        await history.publish(room, Envelope(sender=None, data=1))

    async def publish_and_wait() -> None:
        await publish("second")
        await wait_until(lambda: not history._logs)

    asyncio.run(publish("first"))
    asyncio.run(publish_and_wait())


async def test_expired_messages_do_not_reset_the_offset() -> None:
    history = History(Backplane(), make_settings(history_s=0.05))
    member = Member(history)
    begin = (await member.replay(None)).position
    await say(history, 1)
    await wait_until(lambda: not history._by_use)
    assert not history._logs[ROOM].kept
    await say(history, 2)
    assert (await member.replay(None)).position == begin.next.next


async def test_evicted_messages_do_not_reset_the_offset() -> None:
    history = History(Backplane(), make_settings(history_total_bytes=3_000))
    member = Member(history)
    begin = (await member.replay(None)).position
    await say(history, 1)
    await history.publish("another", Envelope(sender=None, data="x" * 1_500))
    assert not history._logs[ROOM].kept
    await say(history, 2)
    assert (await member.replay(None)).position == begin.next.next


async def test_a_rejoin_of_a_briefly_empty_room_is_recovered(clock: Clock) -> None:
    history = History(Backplane(), make_settings(history_messages=0, history_s=60))
    member = Member(history)
    await say(history, 1)
    position = (await member.replay(None)).position
    clock.now_s += 59
    member.close()
    clock.now_s += 59
    history._sweep(60)
    assert (await Member(history).replay(position)).recovered is True


def in_order(history: History) -> int:
    """Return the total size of all logs that can be evicted."""
    return sum(log.size_bytes for logs in history._by_use.values() for log in logs.values())


def by_use(history: History) -> list[str]:
    """Return the rooms that can be evicted, the least recently used of each time first."""
    return [room for logs in history._by_use.values() for room in logs]


async def test_the_total_size_is_limited() -> None:
    limit = 100_000
    history = History(Backplane(), make_settings(history_total_bytes=limit))
    for number in range(500):
        await history.publish(f"room-{number}", Envelope(sender=None, data="x" * 500))
    assert 0.9 * limit < in_order(history) <= limit
    assert in_order(history) == history._size_bytes
    assert list(history._logs) == by_use(history)
    assert "room-499" in history._logs


async def test_the_least_recently_used_room_is_evicted_first() -> None:
    history = History(Backplane(), make_settings(history_total_bytes=5_000))
    for room in ("old", "used", "old", "new"):
        await history.publish(room, Envelope(sender=None, data="x" * 500))
    assert by_use(history) == ["old", "new"]


async def test_the_least_recently_used_room_is_evicted_first_however_long_it_is_kept() -> None:
    history = History(Backplane(), make_settings(history_total_bytes=5_000))
    history.rules_of = make_rules(
        history._settings, lambda room: RoomOptions(history_s=60 if room == "short" else 86_400)
    )
    for room in ("long", "short", "long", "new"):
        await history.publish(room, Envelope(sender=None, data="x" * 500))
    assert by_use(history) == ["long", "new"]


async def test_each_room_is_forgotten_after_its_own_time(clock: Clock) -> None:
    history = History(Backplane(), make_settings(history_s=60))
    lifetimes = {"day": 86_400, "stream": 10}
    history.rules_of = make_rules(
        history._settings, lambda room: RoomOptions(history_s=lifetimes.get(room))
    )
    for room in ("day", "default", "stream"):
        await history.publish(room, Envelope(sender=None, data=1))
    left = []
    for seconds in (11, 60, 86_400):
        clock.now_s += seconds
        for history_s in list(history._sweeping_loops):
            history._sweep(history_s)
        left.append(list(history._logs))
    assert left == [["day", "default"], ["day"], []]


def open_room(history: History, room: str) -> None:
    """Open a room, and ignore what comes from it."""
    # {% if cookiecutter.redis %}
    history.open(room, lambda envelope: None, lambda frame, position: None)
    # {% else %}
    history.open(room, lambda envelope: None)
    # {% endif %}


async def test_rooms_with_members_leave_room_for_messages() -> None:
    history = History(Backplane(), make_settings(history_total_bytes=100_000))
    begins = {}
    for number in range(1_000):
        room = f"room-{number}"
        open_room(history, room)
        begins[room] = (await history.replay(room, None)).position
    for room, begin in begins.items():
        await history.publish(room, Envelope(sender=None, data=1))
        open_room(history, room)
        assert (await history.replay(room, begin)).recovered is True
    assert in_order(history) == history._size_bytes <= 100_000
    assert len(history._logs) == 1_000


def lines_run(action: Callable[[], object]) -> int:
    """Return the number of lines of the module that an action executes, loops included."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename != getfile(History):
            return None
        count += event == "line"
        return trace

    earlier = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(earlier)
    return count


def work(rooms: int) -> dict[str, int]:
    """Return the maximum of executed lines per operation, with ``rooms`` open rooms."""
    history = History(Backplane(), make_settings(history_total_bytes=20_000))
    for number in range(rooms):
        open_room(history, f"room-{number}")
    most = {"publish": 0, "join": 0, "leave": 0, "rejoin": 0}
    envelope = Envelope(sender=None, data="x" * 500)
    for number in range(200):
        room = f"room-{number}"
        operations: dict[str, Callable[[], object]] = {
            "publish": lambda: history.publish(room, envelope),  # noqa: B023
            "leave": lambda: history.close(room),  # noqa: B023
            "rejoin": lambda: open_room(history, room),  # noqa: B023
            "join": lambda: open_room(history, f"new-{room}"),  # noqa: B023
        }
        for name, operation in operations.items():
            most[name] = max(most[name], lines_run(operation))
    return most


async def test_work_is_independent_of_the_number_of_rooms() -> None:
    assert work(20_000) == work(1_000)


async def test_old_logs_are_removed_in_batches(clock: Clock) -> None:
    history = History(Backplane(), make_settings(history_s=60))
    for number in range(2 * SWEPT_AT_ONCE + 1):
        history.publish(f"room-{number}", Envelope(sender=None, data=1))
    clock.now_s += 30
    history.publish("young", Envelope(sender=None, data=1))
    history._sweep(60)
    assert len(history._logs) == 2 * SWEPT_AT_ONCE + 2
    clock.now_s += 31
    history._sweep(60)
    assert len(history._logs) == SWEPT_AT_ONCE + 2
    await wait_until(lambda: len(history._logs) == 1)
    assert list(history._logs) == ["young"]


async def test_expired_messages_are_not_replayed_before_the_sweep(clock: Clock) -> None:
    history = History(Backplane(), make_settings(history_s=60))
    member = Member(history)
    since = (await member.replay(None)).position
    await say(history, 1)
    clock.now_s += 61
    assert len(history._logs[ROOM].kept) == 1
    assert (await member.replay(since)).recovered is False


async def test_expired_messages_are_not_among_the_last_before_the_sweep(clock: Clock) -> None:
    history = History(Backplane(), make_settings(history_s=60))
    member = Member(history)
    await say(history, 1)
    clock.now_s += 40
    await say(history, 2)
    clock.now_s += 40
    assert len(history._logs[ROOM].kept) == 2
    assert data_in(await member.replay(None, last=10)) == [2]


async def test_a_room_that_is_read_again_and_again_keeps_no_expired_messages(clock: Clock) -> None:
    history = History(Backplane(), make_settings(history_s=60))
    await say(history, 1)
    for _ in range(3):
        clock.now_s += 40
        await history.read(ROOM, None)
    assert not history._logs[ROOM].kept
    assert in_order(history) == history._size_bytes


@pytest.mark.parametrize("keeps", [0, 100])
async def test_data_other_than_json_takes_no_offset(keeps: int) -> None:
    history = History(Backplane(), make_settings(history_messages=keeps))
    since = await position_of(history)
    for data in (object(), "\ud800"):
        with pytest.raises(PydanticSerializationError):
            history.publish(ROOM, Envelope(sender=None, data=cast(JsonValue, data)))
    assert await say(history, 1) == [since.offset + 1]
    assert in_order(history) == history._size_bytes


async def test_a_new_log_has_a_new_epoch() -> None:
    settings = make_settings()
    assert await position_of(History(Backplane(), settings)) != await position_of(
        History(Backplane(), settings)
    )
    assert (await position_of(History(Backplane(), settings))).offset == 0
