"""An invalid name fails no other call that shares its round trip to Redis."""

from collections.abc import Callable
from typing import Any

import pytest

from app.realtime import Service
# {% if cookiecutter.rooms %}
from app.realtime.backplane import Channel
from app.realtime.errors import Unavailable
from app.realtime.redis.rooms import presence
# {% endif %}

# {% if cookiecutter.rooms %}
from ..live import run_service, wait_until, wait_until_async
# {% else %}
from ..live import run_service, wait_until
# {% endif %}
from ..test_arguments import CALLS, check_refusal
from .test_backplane import settings_for
# {% if cookiecutter.rooms %}
from .test_node import short_timeout
# {% endif %}
from .valkey import Valkey


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_name_that_is_not_valid_is_refused(
    shared_valkey: Valkey, call: Callable[[Service], Any]
) -> None:
    async with run_service(settings_for(shared_valkey)) as live:
        await wait_until(lambda: live.service.backplane.healthy)
        await check_refusal(live, call)
# {% if cookiecutter.rooms %}


async def test_presence_survives_what_cannot_be_sent(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_service(settings_for(shared_valkey)) as live:
        await wait_until(lambda: live.service.backplane.healthy)
        async with short_timeout(live.service.backplane):
            with monkeypatch.context() as patch:
                patch.setattr(presence, "room_channel", lambda room: Channel("\ud800"))
                with pytest.raises(Unavailable):
                    await live.service.rooms.presence("lobby")
        client = await live.connect("alice")
        await client.ask(type="join", room="lobby")

        async def is_seen() -> bool:
            return (await client.ask(type="presence", room="lobby")).get("total") == 1

        await wait_until_async(is_seen)
# {% endif %}
