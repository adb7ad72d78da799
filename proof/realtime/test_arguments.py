"""Calls of the team's code with an invalid argument raise, and change or fail nothing else."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

# {% if cookiecutter.rooms %}
from app.realtime import CommandError, Connection, Position, Service
# {% else %}
from app.realtime import CommandError, Connection, Service
# {% endif %}

from .connections.test_manager import Notice
from .live import Live, run_service

LONE_SURROGATE = "\ud800"
"""JSON may hold it, but UTF-8 cannot encode it."""

WRONG: Any = 7
"""The type of no argument, which the team's type checker need not see."""


def connection_of(service: Service) -> Connection:
    """Return the connection of the test."""
    return next(iter(service.manager))


def send_frame_to_two(service: Service) -> Any:
    """Send a frame to the user of the test, and to another whose name is not valid."""
    user = connection_of(service).user
    return service.manager.send_frame(Notice(text="none or both"), user, LONE_SURROGATE)


CALLS: dict[str, Callable[[Service], Any]] = {
    "send_to_user": lambda service: service.manager.send_to_user(LONE_SURROGATE, 1),
    "disconnect": lambda service: service.manager.disconnect(LONE_SURROGATE),
    "is_online": lambda service: service.manager.is_online(LONE_SURROGATE),
    "ban": lambda service: service.ban(LONE_SURROGATE, 60),
    **{
        f"ban for {ban_s}": lambda service, ban_s=ban_s: service.ban("bob", ban_s)  # type: ignore[misc]
        for ban_s in (math.inf, math.nan, -1, 1e16, "60")
    },
    "send_to_user without a name": lambda service: service.manager.send_to_user("", 1),
    "broadcast from an empty name": lambda service: service.manager.broadcast(1, sender=""),
    "broadcast from a name that is too long": lambda service: service.manager.broadcast(
        1, sender="x" * 129
    ),
    "broadcast with an id that is too long": lambda service: service.manager.broadcast(
        1, message_id="x" * 257
    ),
    "broadcast with another id": lambda service: service.manager.broadcast(
        1, message_id=LONE_SURROGATE
    ),
    "broadcast_frame": lambda service: service.manager.broadcast_frame(
        Notice(text="hi"), exclude=LONE_SURROGATE
    ),
    "send_frame": send_frame_to_two,
    "send_frame to nobody": lambda service: service.manager.send_frame(
        Notice(text="hi"), exclude=LONE_SURROGATE
    ),
    # {% if cookiecutter.rooms %}
    "publish": lambda service: service.rooms.publish(LONE_SURROGATE, 1),
    "publish to a name of two lines": lambda service: service.rooms.publish("bad room\n", 1),
    "evict": lambda service: service.rooms.evict(LONE_SURROGATE, "bob"),
    "presence": lambda service: service.rooms.presence(LONE_SURROGATE),
    "history": lambda service: service.rooms.history(LONE_SURROGATE),
    "join": lambda service: service.rooms.join(connection_of(service), LONE_SURROGATE),
    "publish from an empty name": lambda service: service.rooms.publish("lobby", 1, sender=""),
    "publish without a connection": lambda service: service.rooms.publish(
        "lobby", 1, exclude=WRONG
    ),
    "evict a name": lambda service: service.rooms.evict("lobby", LONE_SURROGATE),
    **{
        f"evict for {reason!r:.9}": lambda service, reason=reason: service.rooms.evict(  # type: ignore[misc]
            "lobby", connection_of(service).user, reason
        )
        for reason in (WRONG, LONE_SURROGATE, "x" * 257, "x" * 2_000_000)
    },
    "join at two positions": lambda service: service.rooms.join(
        connection_of(service), "hall", Position("epoch", 1), last=1
    ),
    "history at two positions": lambda service: service.rooms.history(
        "lobby", Position("epoch", 1), 1
    ),
    "history of less than nothing": lambda service: service.rooms.history("lobby", last=-1),
    # {% endif %}
}
"""Calls of the team's code, each with an argument that is not valid."""


async def check_refusal(live: Live, call: Callable[[Service], Any]) -> None:
    """Check that a call is refused, and that what shares its batch arrives."""
    client = await live.connect("alice")
    # {% if cookiecutter.rooms %}
    await client.ask(type="join", room="lobby")
    # {% endif %}

    async def refused() -> int:
        try:
            await call(live.service)
        except CommandError as refusal:
            return refusal.status
        return 200

    sent = live.service.manager.send_to_user(client.user, "hello")
    assert await asyncio.wait_for(refused(), 9) == 400
    await sent
    assert (await client.receive("message"))["data"] == "hello"
    assert not live.server.config.app.failed  # type: ignore[union-attr]
    assert await client.is_quiet()
    # {% if cookiecutter.rooms %}
    assert live.service.rooms.members_here("lobby") == len(live.service.rooms) == 1
    assert (await live.service.rooms.history("lobby", last=9)).frames == ()
    # {% endif %}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_an_argument_that_is_not_valid_is_refused(call: Callable[[Service], Any]) -> None:
    async with run_service() as live:
        await check_refusal(live, call)


@pytest.mark.parametrize(
    "name", ["", " bob", "bob\n", "\u200bbob", "\u200dbob", "\u2800", "x" * 129]
)
async def test_a_name_that_no_user_can_have_is_refused(name: str) -> None:
    async with run_service() as live:
        error = await (await live.connect()).ask(type="send", to=name, data="hi")
        assert error["code"] == "bad_request"
        assert error["message"] == "to: A user's name has 1 to 128 visible characters"
        assert (await live.post("/disconnect", {"user": name})).status_code == 422
