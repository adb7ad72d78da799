"""A ban refuses a user's connections for a time, also during the handshake."""

import asyncio

import pytest
from starlette.requests import HTTPConnection

from app.realtime import Authenticator, CommandRouter, Connection, CurrentUser, Identity, Service
from app.realtime.protocol import REVOKED

from ..client import DEADLINE_S
from ..engine import make_app
from ..live import Live, make_settings, run_app, run_service


@pytest.fixture(autouse=True)
def everybody_is_alice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every client authenticate as the same user, in all styles."""

    async def authenticate(self: Authenticator, handshake: HTTPConnection) -> Identity:
        return Identity("alice")

    monkeypatch.setattr(Authenticator, "authenticate", authenticate)


async def disconnect(live: Live, ban_s: int | None) -> None:
    answer = await live.post("/disconnect", {"user": "alice", "ban_s": ban_s})
    assert answer.status_code == 202


async def assert_refused(live: Live) -> None:
    client = await live.connect_with(await live.options(), welcomed=False)
    assert await client.closed() == REVOKED
    assert not client._unread


async def test_a_banned_user_is_closed_and_refused_until_the_ban_is_lifted() -> None:
    async with run_service() as live:
        client = await live.connect()
        await disconnect(live, 60)
        assert await client.closed() == REVOKED
        await assert_refused(live)
        await disconnect(live, None)  # which leaves the ban as it is
        await assert_refused(live)
        await disconnect(live, 0)
        await live.connect()


async def test_without_a_ban_the_user_may_return() -> None:
    async with run_service() as live:
        client = await live.connect()
        await disconnect(live, None)
        assert await client.closed() == REVOKED
        await live.connect()


@pytest.mark.hostile(86)
@pytest.mark.parametrize("during", ["authenticate", "connecting"])
async def test_a_ban_during_the_handshake_closes_the_connection(
    monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    waiting, banned = asyncio.Event(), asyncio.Event()

    async def wait(*_: object) -> Identity:
        waiting.set()
        await banned.wait()
        return Identity("alice")

    commands = CommandRouter()
    if during == "authenticate":
        monkeypatch.setattr(Authenticator, "authenticate", wait)
    else:

        @commands.connecting
        async def begin(service: Service, connection: Connection) -> None:
            await wait()

    async with run_service(commands=commands) as live:
        options = await live.options()
        connecting = asyncio.create_task(live.connect_with(options, welcomed=False))
        async with asyncio.timeout(DEADLINE_S):
            await waiting.wait()
        await disconnect(live, 60)
        banned.set()
        client = await connecting
        assert await client.closed() == REVOKED
        assert not client._unread


async def test_a_banned_user_is_refused_by_your_routes() -> None:
    app = make_app(make_settings())

    @app.get("/me")
    async def me(user: CurrentUser) -> str:
        return user.user

    async with run_app(app) as live:
        assert (await live.get("/me")).json() == "alice"
        await disconnect(live, 60)
        refusal = await live.get("/me")
        assert (refusal.status_code, refusal.json()["detail"]) == (403, "revoked")


@pytest.mark.parametrize("ban_s", [-1, 0.5, "60", True, 10**12])
async def test_an_invalid_duration_is_refused(live: Live, ban_s: object) -> None:
    answer = await live.post("/disconnect", {"user": "alice", "ban_s": ban_s})
    assert answer.status_code == 422


async def test_openapi_describes_the_ban() -> None:
    async with run_service(make_settings(environment="development")) as live:
        described = (await live.get("/openapi.json")).json()["paths"]["/disconnect"]["post"]
        schema = described["requestBody"]["content"]["application/json"]["schema"]
        assert {"user", "ban_s"} <= schema["properties"].keys()
        assert schema["required"] == ["user"]
