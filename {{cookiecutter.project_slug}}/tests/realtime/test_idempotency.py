"""Repeated commands, and repeated requests of the backend."""

import asyncio

import pytest

from .live import Live


async def test_a_repeated_message_to_a_user_is_sent_once(live: Live) -> None:
    sender, member = await live.connect("alice"), await live.connect("bob")
    command = {"type": "send", "to": member.user, "data": 1, "key": "key"}
    for number in range(3):
        answer = await sender.ask(**command, id=f"{number}")
        assert answer == {"type": "ok", "id": f"{number}", "reached": 1}
    assert (await member.receive("message"))["data"] == 1
    assert await member.is_quiet()
    error = await sender.ask(**command | {"data": 2})
    assert (error["code"], error["message"].partition(":")[0]) == ("bad_request", "key")
    assert (await member.ask(**command))["type"] == "ok"  # keys are per user
    assert (await member.receive("message"))["from"] == member.user


@pytest.mark.parametrize("key", ["", "x" * 65, 1])
async def test_a_bad_key_of_a_command_is_refused(live: Live, key: object) -> None:
    client = await live.connect()
    error = await client.ask(type="send", to=client.user, data=1, key=key)
    assert (error["code"], error["message"].partition(":")[0]) == ("bad_request", "key")
    assert await client.is_quiet()


async def test_a_repeated_publication_is_sent_once(live: Live) -> None:
    client = await live.connect()
    for _ in range(3):
        assert (await publish(live, "one", "key-1")) == 202
    assert (await publish(live, "two", "key-2")) == 202
    assert [(await client.receive("message"))["data"] for _ in range(2)] == ["one", "two"]
    assert await client.is_quiet()


async def test_concurrent_publications_with_one_key_are_sent_once(live: Live) -> None:
    client = await live.connect()
    statuses = await asyncio.gather(*(publish(live, "same", "key-3") for _ in range(5)))
    assert 202 in statuses
    assert set(statuses) <= {202, 409}
    assert (await client.receive("message"))["data"] == "same"
    assert await client.is_quiet()


async def test_a_key_reused_for_another_request_is_refused(live: Live) -> None:
    assert await publish(live, 1, "key-4") == 202
    assert await publish(live, 2, "key-4") == 422


@pytest.mark.parametrize("key", ["", "x" * 129, "with space"])
async def test_a_bad_key_of_a_request_is_refused(live: Live, key: str) -> None:
    client = await live.connect()
    assert await publish(live, 1, key) == 422
    assert await client.is_quiet()


async def publish(live: Live, data: object, idempotency_key: str) -> int:
    """Publish to all users; return the status."""
    headers = {"Idempotency-Key": idempotency_key}
    return (await live.post("/publish", {"data": data}, headers=headers)).status_code
