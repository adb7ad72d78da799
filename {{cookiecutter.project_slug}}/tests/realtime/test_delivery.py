"""When connections are flushed: together, in slices, and each source in its turn."""

import asyncio

import pytest
from structlog.testing import capture_logs

from app.realtime.delivery import FULL, SLICE, Flusher

from .client import DEADLINE_S


class Note:
    """Notes in a list that it was flushed."""

    def __init__(self, name: str, flushed: list[str]) -> None:
        self._name = name
        self._flushed = flushed

    def flush(self) -> None:
        """Note it."""
        self._flushed.append(self._name)


async def catch_up(flusher: Flusher) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await flusher.catch_up()


async def test_what_came_in_the_next_turn_is_flushed_together_with_what_was_there() -> None:
    flusher, flushed = Flusher(), list[str]()
    flusher.waiting(None).append(Note("first", flushed))
    await asyncio.sleep(0)
    assert flushed == []
    flusher.waiting(None).append(Note("second", flushed))
    await asyncio.sleep(0)
    assert flushed == ["first", "second"]


async def test_a_large_flush_lets_the_loop_turn_between_its_slices() -> None:
    flusher, flushed = Flusher(), list[str]()
    flusher.waiting("large").extend(Note("large", flushed) for _ in range(10 * SLICE))
    between = [0]
    while len(flushed) < 10 * SLICE:
        await asyncio.sleep(0)
        if len(flushed) != between[-1]:
            between.append(len(flushed))
    assert between == [number * SLICE for number in range(11)]


async def test_few_do_not_wait_for_many() -> None:
    flusher, flushed = Flusher(), list[str]()
    flusher.waiting("large").extend(Note("large", flushed) for _ in range(10 * SLICE))
    while not flushed:
        await asyncio.sleep(0)
    flusher.waiting("small").append(Note("small", flushed))
    await catch_up(flusher)
    assert flushed.index("small") <= 2 * SLICE
    assert flushed.count("large") == 10 * SLICE


async def test_catching_up_takes_until_all_is_flushed() -> None:
    flusher, flushed = Flusher(), list[str]()
    await catch_up(flusher)
    flusher.waiting("large").extend(Note("large", flushed) for _ in range(3 * SLICE))
    await catch_up(flusher)
    assert len(flushed) == 3 * SLICE
    flusher.waiting(None).append(Note("late", flushed))
    await catch_up(flusher)
    assert flushed[-1] == "late"


async def test_one_that_fails_does_not_stop_the_others() -> None:
    class Failing:
        def flush(self) -> None:
            raise OSError

    flusher, flushed = Flusher(), list[str]()
    with capture_logs() as lines:
        flusher.waiting(None).extend([Failing(), Note("next", flushed)])
        await catch_up(flusher)
    assert flushed == ["next"]
    assert [line["event"] for line in lines] == ["flush failed"]


async def test_catching_up_does_not_wait_for_what_others_add_meanwhile() -> None:
    flusher, flushed = Flusher(), list[str]()
    flooding = True

    class Flood:
        def flush(self) -> None:
            if flooding:
                flusher.waiting("flood").append(self)

    flusher.waiting("flood").append(Flood())
    flusher.waiting("mine").append(Note("mine", flushed))
    await catch_up(flusher)
    assert flushed == ["mine"]
    flooding = False
    await catch_up(flusher)


@pytest.mark.parametrize("count", [1, SLICE - 1, SLICE, SLICE + 1])
async def test_all_are_flushed_once(count: int) -> None:
    flusher, flushed = Flusher(), list[str]()
    flusher.waiting(None).extend(Note(str(number), flushed) for number in range(count))
    await catch_up(flusher)
    assert flushed == [str(number) for number in range(count)]


async def test_it_is_full_until_the_next_flush() -> None:
    flusher = Flusher()
    flusher.waiting("many", FULL - 1)
    assert not flusher.full
    flusher.waiting("one more")
    assert flusher.full
    await catch_up(flusher)
    assert not flusher.full
    assert flusher.handed_out == FULL
