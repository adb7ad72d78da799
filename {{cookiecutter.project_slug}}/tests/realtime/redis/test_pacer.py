"""The reader of Redis waits for itself alone."""

import asyncio

from app.realtime.connections.delivery import BURST, FULL, Delivery
from app.realtime.redis.pacer import Pacer

from ..recording_wire import Note, enqueue_all


async def test_a_pacer_waits_for_what_it_has_handed_out_itself() -> None:
    delivery, flushed = Delivery(), list[str]()
    pacer = Pacer(delivery)
    for _ in range(FULL):
        delivery.enqueue(Note("others", []), [b""])
    await pacer.deliver(lambda: delivery.enqueue(Note("first", flushed), [b""]))
    assert flushed == []
    mine = [Note("second", flushed) for _ in range(FULL - 1)]
    await pacer.deliver(enqueue_all, delivery, mine)
    assert flushed.count("second") == FULL - 1


async def test_a_pacer_gives_everybody_a_turn_after_a_burst() -> None:
    pacer = Pacer(Delivery())
    turns: list[int] = []
    for number in range(2 * BURST):
        asyncio.get_running_loop().call_soon(turns.append, number)
        await pacer.deliver(lambda: None)
        assert len(turns) == (number + 1) // BURST * BURST
