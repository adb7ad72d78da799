"""Commands to a room while the user is taken out of it."""

import asyncio
from functools import partial
from typing import Any

import pytest
from pydantic import JsonValue

from app.realtime import Policy, RoomOptions, Service
from app.realtime.rooms.presence import Members

from ..live import Live


async def test_a_user_who_is_evicted_while_the_policy_waits_does_not_join(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed, asked, answered = {True}, asyncio.Event(), asyncio.Event()

    async def wait(*_: object) -> JsonValue:
        asked.set()
        await answered.wait()
        return None

    monkeypatch.setattr(Policy, "can_join", lambda *_: True in allowed)
    monkeypatch.setattr(Policy, "presence_info", wait)
    client = await live.connect()
    joining = asyncio.create_task(client.ask(type="join", room="lobby"))
    await asked.wait()
    allowed.clear()
    await live.service.rooms.evict("lobby", client.user)
    answered.set()
    assert (await joining)["code"] == "forbidden"
    assert len(live.service.rooms) == 0


async def test_a_user_who_is_evicted_while_the_policy_waits_does_not_publish(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def wait(policy: Policy, service: Service, *message: Any) -> Any:
        asked.set()
        await answered.wait()
        return message[2]

    service = live.service
    service.rooms.set_policy(partial(wait, Policy(), service), lambda room: RoomOptions())
    client, member = await live.connect("alice"), await live.connect("bob")
    for each in (member, client):
        await each.ask(type="join", room="lobby")
    publishing = asyncio.create_task(client.ask(type="publish", room="lobby", data=1))
    await asked.wait()
    await service.rooms.evict("lobby", client.user)
    answered.set()
    assert (await publishing)["code"] == "not_joined"
    assert [(await member.receive())["type"] for _ in range(2)] == ["joined", "left"]
    assert await member.is_quiet()


async def test_a_user_who_is_evicted_while_presence_is_read_gets_no_list(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms, client = live.service.rooms, await live.connect()
    presence = rooms.presence

    async def evict_first(room: str) -> Members:
        await rooms.evict(room, client.user)
        return await presence(room)

    monkeypatch.setattr(rooms, "presence", evict_first)
    await client.ask(type="join", room="lobby")
    assert (await client.ask(type="presence", room="lobby"))["code"] == "not_joined"
