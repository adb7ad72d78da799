"""Turns: a flood from many connections does not delay the few messages of others."""

import asyncio

import pytest

from app.realtime.endpoint import turns
from app.realtime.endpoint.turns import Turns

from ..live import Live, wait_until
from ..raw_client import masked

FLOOD = 100
"""Messages of each hostile connection."""


async def in_turns(*due: float) -> list[float]:
    """Return the order in which connections that are due at these times have a turn."""
    shared, handled = Turns(), list[float]()

    async def handle(due_at: float) -> None:
        await shared.begin(lambda: due_at)
        handled.append(due_at)

    async with asyncio.TaskGroup() as tasks:
        for due_at in due:
            tasks.create_task(handle(due_at))
    return handled


async def test_the_earliest_due_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    monkeypatch.setattr(turns, "WOKEN_AT_ONCE", 1)
    assert await in_turns(9.0, 5.0, 1.0, 5.5, 3.0) == [9.0, 1.0, 3.0, 5.0, 5.5]


async def test_everybody_has_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the time of a turn is enough for one of those that are woken only."""
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    due = list(map(float, range(3 * turns.WOKEN_AT_ONCE)))
    assert sorted(await in_turns(*due)) == due


async def test_those_that_are_gone_delay_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    shared = Turns()
    first, gone, last = [asyncio.create_task(shared.begin(lambda: 0.0)) for _ in range(3)]
    await first
    gone.cancel()
    await last
    assert gone.cancelled()


async def test_a_flood_does_not_delay_a_few_messages(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = [await live.connect("bob") for _ in range(10)]
    alice = await live.connect("alice")
    monkeypatch.setattr(turns, "TURN_S", 0.0)  # one message in each turn of the loop
    before = live.counts()["ws_commands_total ping"]
    for client in hostile:
        client.connection.transport.write(masked(b'{"type": "ping"}') * FLOOD)
    await wait_until(lambda: live.counts()["ws_commands_total ping"] > before)
    assert await alice.ask(type="ping")
    handled = live.counts()["ws_commands_total ping"] - before
    assert handled < len(hostile) * FLOOD / 2
