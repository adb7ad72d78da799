"""The rule `before_publish`: what it may return, and how it may fail."""

import sys
from typing import Any

import pytest
from pydantic import JsonValue

from app.realtime import Connection, Policy, Service
from app.realtime.errors import TeamCodeFailed

from ..live import run_service


async def shout(data: JsonValue) -> JsonValue:
    return str(data).upper()


async def test_a_def_may_return_an_awaitable() -> None:
    """As one that a decorator has wrapped does."""

    class Shouting(Policy[Service, Any]):
        def before_publish(
            self, service: Service, room: str, sender: str | None, data: JsonValue, keep: bool
        ) -> Any:
            return shout(data)

    async with run_service(policy=Shouting()) as live:
        client = await live.connect()
        await client.ask(type="join", room="lobby")
        await client.send(type="publish", room="lobby", data="a", echo=True)
        assert (await client.receive("message"))["data"] == "A"
        await live.service.rooms.publish("lobby", "b")
        assert (await client.receive("message"))["data"] == "B"


async def test_a_message_of_a_user_who_was_evicted_meanwhile_is_not_stored() -> None:
    stored: list[JsonValue] = []

    class Storing(Policy[Service, Any]):
        async def can_publish(self, service: Service, connection: Connection, room: str) -> bool:
            service.rooms.leave(connection, room)
            return True

        def before_publish(
            self, service: Service, room: str, sender: str | None, data: JsonValue, keep: bool
        ) -> JsonValue:
            stored.append(data)
            return data

    async with run_service(policy=Storing()) as live:
        client = await live.connect()
        await client.ask(type="join", room="lobby")
        answer = await client.ask(type="publish", room="lobby", data="late")
        assert answer["code"] == "not_joined"
    assert stored == []


async def test_an_exit_fails_only_the_message() -> None:
    class Exiting(Policy[Service, Any]):
        async def before_publish(self, *_: object) -> JsonValue:
            sys.exit("a library gives up")

    async with run_service(policy=Exiting()) as live:
        with pytest.raises(TeamCodeFailed):
            await live.service.rooms.publish("lobby", 1)
        assert (await live.get("/readyz")).status_code == 200


async def test_a_message_that_becomes_too_large_is_refused() -> None:
    class Quoting(Policy[Service, Any]):
        async def before_publish(
            self, service: Service, room: str, sender: str | None, data: JsonValue, keep: bool
        ) -> JsonValue:
            return [str(data) * service.settings.max_unsent_bytes]

    async with run_service(policy=Quoting()) as live:
        client = await live.connect()
        before = await client.ask(type="join", room="lobby")
        answer = await client.ask(type="publish", room="lobby", data="x", echo=True)
        assert answer["code"] == "too_large"
        after = await client.ask(type="join", room="lobby")
        assert after["offset"] == before["offset"]
