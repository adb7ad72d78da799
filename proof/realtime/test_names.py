"""Calls of the team's code with an invalid name raise, and fail no other call."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from app.realtime import CommandError, Service

from .live import Live, run_service

LONE_SURROGATE = "\ud800"
"""JSON may hold it, but UTF-8 cannot encode it."""

CALLS: dict[str, Callable[[Service], Any]] = {
    "send_to_user": lambda service: service.manager.send_to_user(LONE_SURROGATE, 1),
    "disconnect": lambda service: service.manager.disconnect(LONE_SURROGATE),
    "is_online": lambda service: service.manager.is_online(LONE_SURROGATE),
    "ban": lambda service: service.ban(LONE_SURROGATE, 60),
    # {% if cookiecutter.rooms %}
    "publish": lambda service: service.rooms.publish(LONE_SURROGATE, 1),
    "publish to a name of two lines": lambda service: service.rooms.publish("bad room\n", 1),
    "evict": lambda service: service.rooms.evict(LONE_SURROGATE, "bob"),
    "presence": lambda service: service.rooms.presence(LONE_SURROGATE),
    "history": lambda service: service.rooms.history(LONE_SURROGATE),
    "join": lambda service: service.rooms.join(next(iter(service.manager)), LONE_SURROGATE),
    # {% endif %}
}
"""Calls of the team's code, each with a name that is not valid."""


async def check_refusal(live: Live, call: Callable[[Service], Any]) -> None:
    """Check that a call is refused, and that what shares its batch arrives."""
    client = await live.connect("alice")

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
    # {% if cookiecutter.rooms %}
    assert len(live.service.rooms) == 0
    # {% endif %}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_name_that_is_not_valid_is_refused(call: Callable[[Service], Any]) -> None:
    async with run_service() as live:
        await check_refusal(live, call)
