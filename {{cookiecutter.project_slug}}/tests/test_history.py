"""The history of a single node."""

from collections.abc import Callable

import pytest

from app.backplane import Envelope, LocalBackplane
from app.history import LOG_BYTES, History, MemoryHistory, NoHistory, Position

from .history_contract import HistoryContract, Member, say, standing
from .live import make_settings, wait_until, wait_until_async


class TestMemoryHistory(HistoryContract):
    """One node: both views are the same."""

    @pytest.fixture
    def make(self) -> Callable[..., History]:
        """Return what makes a node's history."""
        return lambda **overrides: MemoryHistory(make_settings(**overrides))

    @pytest.fixture
    def history(self, make: Callable[..., History]) -> History:
        """Return the node's history."""
        return make(history_messages=1_000)

    @pytest.fixture
    def other(self, history: History) -> History:
        """Return it again."""
        return history


async def test_nothing_is_left_of_a_room_that_was_left_and_is_old() -> None:
    history = MemoryHistory(make_settings(history_s=0.05))
    member = Member(history)
    await say(history, 1)
    history.sweep()
    assert len(history) == 1
    member.feed.close()
    await wait_until(lambda: len(history) == 0)


async def test_a_room_with_members_keeps_its_count() -> None:
    history = MemoryHistory(make_settings(history_s=0.05, history_total_bytes=LOG_BYTES))
    member = Member(history)
    await say(history, 1)
    position = member.feed.position
    history.sweep()
    await history.publish("another", Envelope(sender=None, data="x" * 5_000))
    await say(history, 2)
    assert position is not None
    assert member.feed.position == Position(position.epoch, position.offset + 1)


async def test_all_rooms_together_are_bounded() -> None:
    limit = 100_000
    history = MemoryHistory(make_settings(history_total_bytes=limit))
    for number in range(500):
        await history.publish(f"room-{number}", Envelope(sender=None, data="x" * 500))
    sizes = [log.size_bytes for log in history._logs.values()]
    assert 0.9 * limit < sum(sizes) <= limit
    assert sum(sizes) == history._size_bytes
    assert "room-499" in history._logs


async def test_those_go_first_that_were_silent_longest() -> None:
    history = MemoryHistory(make_settings(history_total_bytes=5_000))
    for room in ("old", "used", "old", "new"):
        await history.publish(room, Envelope(sender=None, data="x" * 500))
    assert list(history._logs) == ["old", "new"]


async def test_what_is_too_old_is_not_given_away_before_the_sweep() -> None:
    history = MemoryHistory(make_settings(history_s=0.05))
    member = Member(history)
    since = member.feed.position
    await say(history, 1)
    assert history._sweep is not None
    history._sweep.cancel()
    assert since is not None

    async def is_forgotten() -> bool:
        return (await member.feed.past(since)).recovered is False

    await wait_until_async(is_forgotten)


async def test_without_history_there_is_no_position() -> None:
    history = NoHistory(LocalBackplane())
    member = Member(history)
    assert (await member.feed.past(None)).recovered is None
    past = await member.feed.past(Position("epoch", 1))
    assert (past.position, past.messages, past.recovered) == (None, (), False)
    assert await say(history, 1) == [None]
    assert member.data == [1]
    assert member.got[0].position is None
    member.feed.close()
    await say(history, 2)
    assert member.data == [1]


async def test_a_new_log_has_a_new_epoch() -> None:
    settings = make_settings()
    assert await standing(MemoryHistory(settings)) != await standing(MemoryHistory(settings))
    assert (await standing(MemoryHistory(settings))).offset == 0
