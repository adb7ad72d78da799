"""Requests with a key, sent once however often they are repeated."""

import asyncio
import gc
from contextlib import suppress
from typing import Any

import pytest

from app.realtime import expiring, idempotency
from app.realtime.errors import Unavailable
from app.realtime.expiring import ExpiringMap
from app.realtime.idempotency import InProgress, KeyReused, send_once
from app.realtime.protocol import Send

from .client import DEADLINE_S
from .live import wait_until, wait_until_async


@pytest.fixture
def requests() -> ExpiringMap:
    """Return an empty map."""
    return ExpiringMap()


class Sender:
    """Sends messages; each stays on its way until the test sets its result."""

    def __init__(self, requests: ExpiringMap) -> None:
        self.requests = requests
        self.sent: list[asyncio.Future[int]] = []
        self.ids: list[str] = []

    async def send(self, key: str = "key", data: Any = "hi", kind: type[Send] = Send) -> int:
        """Send a message; return its result."""
        command = kind(type="send", id=f"{len(self.sent)}", to="bob", data=data)
        return await send_once(self.requests, key, command, self._start, 0.0)

    async def begin(self) -> asyncio.Task[int]:
        """Return a message that is on its way."""
        count = len(self.sent)
        sending = asyncio.create_task(self.send())
        await wait_until(lambda: len(self.sent) > count)
        return sending

    def _start(self, message_id: str) -> asyncio.Future[int]:
        self.ids.append(message_id)
        self.sent.append(asyncio.get_running_loop().create_future())
        return self.sent[-1]


@pytest.fixture
def sender(requests: ExpiringMap) -> Sender:
    """Return a sender over an empty map."""
    return Sender(requests)


async def test_a_repeated_request_has_the_first_result(sender: Sender) -> None:
    first = await sender.begin()
    with pytest.raises(InProgress):
        await sender.send()
    sender.sent[0].set_result(7)
    assert [await first, await sender.send(), await sender.send()] == [7, 7, 7]
    assert len(sender.sent) == 1


async def test_a_key_cannot_be_reused_for_another_request(sender: Sender) -> None:
    first = await sender.begin()
    with pytest.raises(KeyReused):
        await sender.send(data="other")
    sender.sent[0].set_result(7)
    await first
    with pytest.raises(KeyReused):
        await sender.send(data="other")


class NextSend(Send):
    """The command of the next version."""

    lifetime_s: int | None = None


async def test_a_request_is_recognised_by_its_meaning(sender: Sender) -> None:
    sending = asyncio.create_task(sender.send(data={"a": 1, "b": [2]}))
    await wait_until(lambda: bool(sender.sent))
    sender.sent[0].set_result(7)
    assert await sending == 7
    for kind in (Send, NextSend):
        assert await sender.send(data={"b": [2], "a": 1}, kind=kind) == 7


async def test_a_failure_whose_caller_has_gone_is_not_logged(sender: Sender) -> None:
    logged: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: logged.append(context))
    try:
        first = await sender.begin()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        sender.sent.pop().set_exception(Unavailable())
        del first
        await wait_until(lambda: len(sender.requests._items) == 0)
        await asyncio.sleep(0)
        gc.collect()
    finally:
        loop.set_exception_handler(None)
    assert logged == []


async def test_a_failed_request_may_be_repeated(sender: Sender) -> None:
    first = await sender.begin()
    sender.sent[0].set_exception(Unavailable())
    with pytest.raises(Unavailable):
        await first
    again = await sender.begin()
    sender.sent[1].set_result(8)
    assert await again == 8
    assert sender.ids[0] == sender.ids[1]


@pytest.mark.parametrize("difference", [{"key": "other"}, {"data": "other"}])
async def test_other_requests_have_other_ids(sender: Sender, difference: dict[str, Any]) -> None:
    for other in ({}, difference):
        sending = asyncio.create_task(sender.send(**other))
        await wait_until(lambda: bool(sender.sent))
        sender.sent.pop().set_exception(Unavailable())
        with pytest.raises(Unavailable):
            await sending
    assert sender.ids[0] != sender.ids[1]


async def test_a_request_whose_message_was_cancelled_may_be_repeated(sender: Sender) -> None:
    first = await sender.begin()
    sender.sent[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    again = await sender.begin()
    sender.sent[1].set_result(8)
    assert await again == 8
    assert sender.ids[0] == sender.ids[1]


async def test_a_request_that_was_cancelled_before_it_was_sent_may_be_repeated(
    requests: ExpiringMap,
) -> None:
    async def hang(message_id: str) -> asyncio.Future[int]:
        await asyncio.Event().wait()
        raise AssertionError

    command = Send(type="send", to="bob", data=1)
    sending = asyncio.create_task(send_once(requests, "key", command, hang, 0.0))
    await wait_until(lambda: len(requests._items) == 1)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert len(requests._items) == 0


async def test_what_was_sent_is_remembered_when_its_caller_has_gone(sender: Sender) -> None:
    first = await sender.begin()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(InProgress):
        await sender.send()
    sender.sent[0].set_result(7)

    async def is_remembered() -> bool:
        with suppress(InProgress):
            return await sender.send() == 7
        return False

    await wait_until_async(is_remembered)
    assert len(sender.sent) == 1


async def test_a_claim_outlasts_the_time_that_a_request_may_take(
    monkeypatch: pytest.MonkeyPatch, requests: ExpiringMap
) -> None:
    now_s = 1_000.0
    monkeypatch.setattr(expiring, "monotonic", lambda: now_s)
    command = Send(type="send", to="bob", data="hi")
    sent: list[asyncio.Future[int]] = []

    def start(message_id: str) -> asyncio.Future[int]:
        sent.append(asyncio.get_running_loop().create_future())
        return sent[-1]

    first = asyncio.create_task(send_once(requests, "key", command, start, 30.0))
    await wait_until(lambda: bool(sent))
    now_s += 30
    with pytest.raises(InProgress):
        await asyncio.wait_for(send_once(requests, "key", command, start, 30.0), DEADLINE_S)
    sent[0].set_result(7)
    assert await first == 7


@pytest.mark.parametrize("lifetime", ["CLAIM_MARGIN_S", "REMEMBERED_S"])
async def test_a_request_is_remembered_for_a_time(
    sender: Sender, monkeypatch: pytest.MonkeyPatch, lifetime: str
) -> None:
    monkeypatch.setattr(idempotency, lifetime, 0)
    first = await sender.begin()
    assert (lifetime == "CLAIM_MARGIN_S") == (await sender.requests.get("key") is None)
    sender.sent[0].set_result(7)
    await first
    assert (lifetime == "REMEMBERED_S") == (await sender.requests.get("key") is None)
