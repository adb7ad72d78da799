"""The reader of Redis waits for itself alone."""

import asyncio

from app.realtime.delivery import BURST, FULL, Flusher
from app.realtime.redis.pacer import Pacer

from ..test_delivery import Note


async def test_a_pacer_waits_for_what_it_has_handed_out_itself() -> None:
    flusher, flushed = Flusher(), list[str]()
    pacer = Pacer(flusher)
    flusher.waiting("others", 10 * FULL).append(Note("others", flushed))
    await pacer.deliver(lambda: flusher.waiting("mine", FULL - 1).append(Note("first", flushed)))
    assert flushed == []
    await pacer.deliver(lambda: flusher.waiting("mine").append(Note("second", flushed)))
    assert flushed == ["others", "first", "second"]


async def test_a_pacer_gives_everybody_a_turn_after_a_burst() -> None:
    pacer = Pacer(Flusher())
    turns: list[int] = []
    for number in range(2 * BURST):
        asyncio.get_running_loop().call_soon(turns.append, number)
        await pacer.deliver(lambda: None)
        assert len(turns) == (number + 1) // BURST * BURST
