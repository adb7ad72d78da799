"""Requests of the backend that are repeated."""

import asyncio

import pytest

from app.realtime import idempotency
from app.realtime.errors import Unavailable
from app.realtime.expiring import ExpiringMap
from app.realtime.idempotency import InProgress, KeyReused, once

from .live import Live


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
