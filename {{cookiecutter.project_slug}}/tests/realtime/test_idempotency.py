"""Requests of the backend that are repeated."""

import asyncio
from contextlib import suppress

import pytest

from app.realtime import idempotency
from app.realtime.errors import Unavailable
from app.realtime.expiring import ExpiringMap
from app.realtime.idempotency import InProgress, KeyReused, once, send_once
from app.realtime.protocol import Send

from .live import Live, wait_until_async


@pytest.fixture
def claims() -> ExpiringMap:
    """Return an empty map."""
    return ExpiringMap()


async def is_first(claims: ExpiringMap, key: str | None = "key", request: str = "request") -> bool:
    """Carry out a request; return whether it was the first."""
    async with once(claims, key, request) as is_first:
        return is_first


async def test_a_repeated_request_is_executed_once(claims: ExpiringMap) -> None:
    assert [await is_first(claims) for _ in range(3)] == [True, False, False]


async def test_requests_with_different_keys_or_none_are_independent(claims: ExpiringMap) -> None:
    for key in ("a", "b", None, None):
        assert await is_first(claims, key)


@pytest.mark.parametrize("failure", [Unavailable, asyncio.CancelledError])
async def test_a_failed_request_may_be_repeated(
    claims: ExpiringMap, failure: type[BaseException]
) -> None:
    with pytest.raises(failure):
        async with once(claims, "key", "request"):
            raise failure
    assert await is_first(claims)


async def test_a_request_in_progress_is_not_carried_out_again(claims: ExpiringMap) -> None:
    async with once(claims, "key", "request"):
        with pytest.raises(InProgress):
            await is_first(claims)
    assert not await is_first(claims)


@pytest.mark.parametrize("lifetime", ["CLAIMED_S", "REMEMBERED_S"])
async def test_a_request_is_remembered_for_a_time(
    claims: ExpiringMap, monkeypatch: pytest.MonkeyPatch, lifetime: str
) -> None:
    monkeypatch.setattr(idempotency, lifetime, 0)
    async with once(claims, "key", "request"):
        assert (lifetime == "CLAIMED_S") == (await claims.get("key") is None)
    assert (lifetime == "REMEMBERED_S") == await is_first(claims)


async def test_a_key_cannot_be_reused_for_another_request(claims: ExpiringMap) -> None:
    assert await is_first(claims)
    with pytest.raises(KeyReused):
        await is_first(claims, request="another")


class Sender:
    """Sends messages, which stay on their way until the test says that they were sent."""

    def __init__(self, claims: ExpiringMap) -> None:
        self.claims = claims
        self.sent: list[asyncio.Future[int]] = []

    async def send(self, user: str = "alice", data: str = "hi") -> asyncio.Future[int]:
        """Send a message of a user with always the same key."""
        command = Send(type="send", id=f"{len(self.sent)}", to="bob", data=data)
        return await send_once(self.claims, user, "key", command, self._start)

    def _start(self) -> asyncio.Future[int]:
        self.sent.append(asyncio.get_running_loop().create_future())
        return self.sent[-1]


@pytest.fixture
def sender(claims: ExpiringMap) -> Sender:
    """Return what sends."""
    return Sender(claims)


async def test_a_repeated_command_has_the_first_result(sender: Sender) -> None:
    first = await sender.send()
    with pytest.raises(InProgress):
        await sender.send()
    sender.sent[0].set_result(7)
    assert [await first, await (await sender.send())] == [7, 7]
    with pytest.raises(KeyReused):
        await sender.send(data="other")
    assert len(sender.sent) == 1


async def test_keys_of_users_are_independent(sender: Sender) -> None:
    await sender.send("alice")
    await sender.send("bob")
    for sent in sender.sent:
        sent.set_result(0)
    assert len(sender.sent) == 2


async def test_a_command_whose_client_has_gone_is_remembered(sender: Sender) -> None:
    (await sender.send()).cancel()
    sender.sent[0].set_result(7)

    async def is_remembered() -> bool:
        with suppress(InProgress):
            return await (await sender.send()) == 7
        return False

    await wait_until_async(is_remembered)
    assert len(sender.sent) == 1


async def test_a_failed_command_may_be_repeated(sender: Sender) -> None:
    first = await sender.send()
    sender.sent[0].set_exception(Unavailable("lost"))
    with pytest.raises(Unavailable):
        await first
    again = await sender.send()
    sender.sent[1].set_result(8)
    assert await again == 8


async def test_a_repeated_message_to_a_user_is_sent_once(live: Live) -> None:
    sender, member = await live.connect("alice"), await live.connect("bob")
    command = {"type": "send", "to": member.user, "data": 1, "key": "key"}
    for number in range(3):
        answer = await sender.ask(**command, id=f"{number}")
        assert answer == {"type": "ok", "id": f"{number}"}
    assert (await member.receive("message"))["data"] == 1
    assert await member.is_quiet()
    error = await sender.ask(**command | {"data": 2})
    assert (error["code"], error["message"].partition(":")[0]) == ("bad_request", "key")


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
async def test_a_bad_key_is_refused(live: Live, key: str) -> None:
    client = await live.connect()
    assert await publish(live, 1, key) == 422
    assert await client.is_quiet()


async def publish(live: Live, data: object, idempotency_key: str) -> int:
    """Publish to all users; return the status."""
    key = live.settings.backend_key
    assert key is not None
    headers = {
        "Authorization": f"Bearer {key.get_secret_value()}",
        "Idempotency-Key": idempotency_key,
    }
    async with live.http() as http:
        return (await http.post("/publish", json={"data": data}, headers=headers)).status_code
