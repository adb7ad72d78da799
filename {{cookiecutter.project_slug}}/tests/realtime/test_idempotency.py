"""Repeated requests of the backend."""

import asyncio

import pytest

from app.realtime import idempotency
from app.realtime.idempotency import Claim, Claims

from .idempotency_contract import ClaimsContract
from .live import Live, wait_until_async


class TestClaims(ClaimsContract):
    """A single node."""

    @pytest.fixture
    def claims(self) -> Claims:
        """Return empty claims."""
        return Claims()


async def test_a_claim_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "CLAIMED_S", 0.02)
    claims = Claims()
    assert await claims.claim("key", "request") is None
    assert await claims.claim("key", "request") == Claim("request", done=False)

    async def is_free() -> bool:
        return await claims.claim("key", "request") is None

    await wait_until_async(is_free)


async def test_the_number_of_keys_is_limited() -> None:
    claims = Claims(max_keys=3)
    for number in range(5):
        await claims.claim(f"key-{number}", "request")
        await claims.keep(f"key-{number}", "request")
    remembered = [number for number in range(5) if claims._claims.get(f"key-{number}")]
    assert remembered == [2, 3, 4]


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
