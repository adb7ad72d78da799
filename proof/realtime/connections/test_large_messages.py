"""Messages of the team's own code that are too large are refused, and close no connection."""

from asyncio import Future
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from app.realtime import ServerFrame, Service
from app.realtime.errors import TooLarge
from app.realtime.protocol import Ok

from ..live import Live, make_settings, run_service

LARGE = "x" * 1_048_576
"""As many bytes as may be unsent."""


@dataclass(slots=True, kw_only=True)
class Notice(ServerFrame):
    """A frame of the team's own."""

    type: Literal["notice"] = "notice"
    # {% if cookiecutter.rooms %}
    room: str = "lobby"
    # {% endif %}
    text: str = LARGE


SENDS: list[Callable[[Service], Future[Any]]] = [
    lambda service: service.manager.send_to_user("alice", LARGE),
    lambda service: service.manager.broadcast(LARGE),
    lambda service: service.manager.send_frame(Notice(), "alice"),
    lambda service: service.manager.broadcast_frame(Notice()),
    # {% if cookiecutter.rooms %}
    lambda service: service.rooms.publish("lobby", LARGE),
    lambda service: service.rooms.publish("lobby", LARGE, keep=False),
    lambda service: service.rooms.send_frame("lobby", Notice()),
    # {% endif %}
]


async def check_refusals(live: Live) -> None:
    """Send each kind of message, which must be refused without harm."""
    client = await live.connect("alice")
    # {% if cookiecutter.rooms %}
    before = await client.ask(type="join", room="lobby")
    # {% endif %}
    for send in SENDS:
        with pytest.raises(TooLarge):
            await send(live.service)
    # {% if cookiecutter.rooms %}
    after = await client.ask(type="join", room="lobby")
    assert (after["epoch"], after["offset"]) == (before["epoch"], before["offset"])
    # {% endif %}
    assert await client.is_quiet()


@pytest.fixture
async def live() -> AsyncIterator[Live]:
    async with run_service(make_settings()) as live:
        yield live


async def test_a_large_message_is_refused(live: Live) -> None:
    await check_refusals(live)


async def test_a_large_frame_to_one_connection_is_refused(live: Live) -> None:
    client = await live.connect("alice")
    (connection,) = live.service.manager
    with pytest.raises(TooLarge):
        connection.send(Ok(), Notice())
    with pytest.raises(TooLarge):
        live.service.manager.send_to_connection(connection.id, LARGE)
    assert await client.is_quiet()
