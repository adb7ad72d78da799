"""A room of thousands of messages."""

import asyncio

import pytest

from app.realtime import Policy, RoomOptions, Service
from app.realtime.rooms.history import Position

from ..live import Live, run_service


def keep_a_stream(policy: Policy, service: Service, room: str) -> RoomOptions:
    """Return the options of a stream in docs/extending.md, but keep it longer than any test."""
    return RoomOptions(
        history_messages=10_000, history_s=600, history_bytes=900_000, presence=False
    )


async def follow_stream(live: Live) -> None:
    """Fill the history of a stream, and return to it while it goes on."""
    rooms, room = live.service.rooms, "stream:1"
    epoch = (await rooms.history(room)).position.epoch
    await asyncio.gather(*(rooms.publish(room, number) for number in range(1, 10_001)))
    client = await live.connect()
    since = {"epoch": epoch, "offset": 5_000}
    joining = asyncio.create_task(client.ask(type="join", room=room, since=since))
    for number in range(10_001, 10_101):
        await rooms.publish(room, number)
        await asyncio.sleep(0)
    assert (await joining)["recovered"] is True
    got = [await client.receive("message") for _ in range(5_100)]
    expected = [(number, number) for number in range(5_001, 10_101)]
    assert [(frame["offset"], frame["data"]) for frame in got] == expected
    assert await client.is_quiet()
    for offset, kept in ((99, None), (100, 10_000), (10_100, 0), (10_101, None)):
        replay = await rooms.history(room, Position(epoch, offset))
        assert (replay.recovered, len(replay.frames)) == (kept is not None, kept or 0)
    whole = await (await live.connect()).ask(type="join", room=room, last=10_000)
    assert whole["replayed"] == 10_000


async def test_a_client_recovers_thousands_of_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "room_options", keep_a_stream)
    async with run_service() as live:
        await follow_stream(live)
