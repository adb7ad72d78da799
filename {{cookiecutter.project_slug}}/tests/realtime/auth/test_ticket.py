"""Tickets: issued to the backend, valid once and for some seconds."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs
from websockets.exceptions import ConnectionClosed

from ..client import ConnectOptions
from ..live import Live, make_settings, run_service
from ..settings.test_settings import startup_error


def with_ticket(live: Live, ticket: str) -> ConnectOptions:
    return ConnectOptions(f"ws://127.0.0.1:{live.port}/ws?ticket={ticket}", {})


async def issue(live: Live, user: str = "alice") -> str:
    answer = await live.post("/tickets", {"user": user})
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    assert set(answer.json()) == {"ticket", "expires_at"}
    return str(answer.json()["ticket"])


async def is_refused(live: Live, ticket: str) -> bool:
    client = await live.connect_with(with_ticket(live, ticket), welcomed=False)
    return await client.closed() == (4500, "unauthorized")


@pytest.mark.hostile(44)
async def test_a_ticket_admits_its_user_once(live: Live) -> None:
    ticket = await issue(live)
    client = await live.connect_with(with_ticket(live, ticket))
    assert client.user == "alice"
    assert await is_refused(live, ticket)


@pytest.mark.hostile(44)
async def test_concurrent_connections_with_a_ticket_are_accepted_once(live: Live) -> None:
    ticket = await issue(live)
    outcomes = await asyncio.gather(*(try_ticket(live, ticket) for _ in range(10)))
    assert Counter(outcomes) == {"welcome": 1, 4500: 9}


async def try_ticket(live: Live, ticket: str) -> str | int | None:
    """Return the type of the first frame, or the code of the close."""
    client = await live.connect_with(with_ticket(live, ticket), welcomed=False)
    try:
        return str((await client.receive())["type"])
    except ConnectionClosed:
        return (await client.closed())[0]


@pytest.mark.hostile(29)
@pytest.mark.parametrize("ticket", ["", "unknown", "x" * 5_000, "%00"])
async def test_other_tickets_are_refused(live: Live, ticket: str) -> None:
    assert await is_refused(live, ticket)


@pytest.mark.parametrize("body", [{}, {"user": " "}, {"user": 7}, {"user": "a", "surplus": 1}, []])
async def test_bad_requests_are_refused(live: Live, body: object) -> None:
    assert (await live.post("/tickets", body)).status_code == 422


async def test_a_request_for_a_ticket_needs_the_key(live: Live) -> None:
    assert (await live.post("/tickets", {"user": "alice"}, key="wrong")).status_code == 401


def test_the_key_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "error: BACKEND_KEY: is not set" in startup_error(monkeypatch, BACKEND_KEY="")


async def test_the_lifetime_is_a_setting() -> None:
    async with run_service(make_settings(ticket_lifetime_s=1)) as live:
        ticket = await issue(live)
        await asyncio.sleep(1.1)
        assert await is_refused(live, ticket)


@pytest.mark.parametrize(
    ("ticket", "cause"), [("", "no ticket"), ("made-up", "unknown, used or expired ticket")]
)
async def test_the_log_tells_why_a_ticket_is_refused(live: Live, ticket: str, cause: str) -> None:
    with capture_logs() as lines:
        assert await is_refused(live, ticket)
    assert [line["cause"] for line in lines] == [cause]
    assert "made-up" not in str(lines)


async def hang(*_: object) -> None:
    await asyncio.Event().wait()


async def fail(*_: object) -> None:
    raise OSError


@pytest.mark.parametrize("put", [hang, fail])
async def test_a_failing_store_answers_503(
    monkeypatch: pytest.MonkeyPatch, put: Callable[..., Awaitable[None]]
) -> None:
    async with run_service() as live:
        # Changed after the start: the server's own deadline for a request stays long.
        settings = live.settings.model_copy(update={"handshake_timeout_s": 0.1})
        monkeypatch.setattr(live.service, "settings", settings)
        monkeypatch.setattr(live.service.authenticator.tickets, "put", put)
        answer = await live.post("/tickets", {"user": "alice"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
