"""Session cookies, as written by Starlette's middleware."""

import json
from base64 import b64encode
from secrets import token_urlsafe
from time import time

import httpx
import pytest
from itsdangerous import TimestampSigner
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from structlog.testing import capture_logs
from websockets.exceptions import InvalidStatus

from app.realtime import CurrentUser

from ..client import Client, ConnectOptions
from ..engine import make_app
from ..live import ORIGIN, Live, make_settings, run_app, run_service
from ..settings.test_settings import startup_error


def with_cookie(live: Live, cookie: str) -> ConnectOptions:
    headers = {"Origin": ORIGIN, "Cookie": cookie}
    return ConnectOptions(f"ws://127.0.0.1:{live.port}/ws", headers)


def signed(live: Live, session: object, secret: str | None = None) -> str:
    """Return a cookie with this session, signed with the site's secret or another."""
    signer = TimestampSigner(secret or live.settings.session_secret.get_secret_value())
    value = signer.sign(b64encode(json.dumps(session).encode())).decode()
    return f"{live.settings.session_cookie}={value}"


async def test_a_cookie_written_by_starlettes_middleware_is_accepted(live: Live) -> None:
    async def log_in(request: Request) -> Response:
        request.session["user"] = "alice"
        return Response()

    secret = live.settings.session_secret.get_secret_value()
    site = Starlette(
        routes=[Route("/login", log_in)],
        middleware=[Middleware(SessionMiddleware, secret_key=secret)],
    )
    transport = httpx.ASGITransport(site)
    async with httpx.AsyncClient(transport=transport, base_url="http://site.test") as browser:
        await browser.get("/login")
        cookie = f"session={browser.cookies['session']}"
    client = await live.connect_with(with_cookie(live, cookie))
    assert client.user == "alice"
    assert client.welcome["expires_at"] is not None


@pytest.mark.hostile(29)
@pytest.mark.parametrize("session", [{}, {"user": ""}, {"user": 7}, {"user": None}, [], None, 1])
async def test_a_session_without_a_user_is_refused(live: Live, session: object) -> None:
    client = await live.connect_with(with_cookie(live, signed(live, session)), welcomed=False)
    assert await client.closed() == (4500, "unauthorized")


@pytest.mark.hostile(29)
@pytest.mark.parametrize("cookie", ["", "session=", "session=nonsense", "session=e30=.a.b"])
async def test_forged_cookies_are_refused(live: Live, cookie: str) -> None:
    client = await live.connect_with(with_cookie(live, cookie), welcomed=False)
    assert await client.closed() == (4500, "unauthorized")


@pytest.mark.hostile(29)
async def test_a_tampered_cookie_is_refused(live: Live) -> None:
    other = signed(live, {"user": "alice"}).replace("session=", "session=A", 1)
    client = await live.connect_with(with_cookie(live, other), welcomed=False)
    assert await client.closed() == (4500, "unauthorized")


async def test_cookies_signed_with_the_previous_secret_are_accepted() -> None:
    old, older, strange = (token_urlsafe(32) for _ in range(3))
    settings = make_settings(session_secret_fallbacks=f"{older},{old}")
    async with run_service(settings) as live:
        for secret in (None, old, older):
            cookie = signed(live, {"user": "alice"}, secret)
            assert (await live.connect_with(with_cookie(live, cookie))).user == "alice"
        cookie = signed(live, {"user": "alice"}, strange)
        client = await live.connect_with(with_cookie(live, cookie), welcomed=False)
        assert await client.closed() == (4500, "unauthorized")


@pytest.mark.hostile(29)
async def test_an_old_cookie_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_service(make_settings(session_max_age_s=60)) as live:
        monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda signer: 1)
        old = signed(live, {"user": "alice"})
        monkeypatch.undo()
        client = await live.connect_with(with_cookie(live, old), welcomed=False)
        assert await client.closed() == (4500, "unauthorized")


@pytest.mark.hostile(46)
async def test_a_handshake_without_origin_is_refused(live: Live) -> None:
    options = with_cookie(live, signed(live, {"user": "alice"}))
    del options.headers["Origin"]
    with pytest.raises(InvalidStatus) as refusal:
        await Client.open(options)
    assert refusal.value.response.status_code == 403


def test_a_missing_or_short_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "error: SESSION_SECRET: is not set" in startup_error(monkeypatch, SESSION_SECRET="")
    assert "SESSION_SECRET: has 5 bytes" in startup_error(monkeypatch, SESSION_SECRET="short")
    assert "SESSION_MAX_AGE_S: " in startup_error(monkeypatch, SESSION_MAX_AGE_S="1" + 16 * "0")
    old = f"{token_urlsafe(32)}, short"
    line = startup_error(monkeypatch, SESSION_SECRET_FALLBACKS=old)
    assert line.startswith("error: SESSION_SECRET_FALLBACKS: has 5 bytes")
    assert "short" not in line
    former = token_urlsafe(32)
    assert former not in repr(make_settings(session_secret_fallbacks=former))


@pytest.mark.parametrize(("ahead_s", "is_accepted"), [(5, True), (60, False)])
async def test_the_clock_of_the_site_may_be_a_little_ahead(
    live: Live, monkeypatch: pytest.MonkeyPatch, ahead_s: int, *, is_accepted: bool
) -> None:
    with monkeypatch.context() as future:
        future.setattr(TimestampSigner, "get_timestamp", lambda signer: int(time()) + ahead_s)
        cookie = signed(live, {"user": "alice"})
    client = await live.connect_with(with_cookie(live, cookie), welcomed=False)
    if is_accepted:
        await client.receive("welcome")
    else:
        assert await client.closed() == (4500, "unauthorized")


async def test_a_page_of_another_site_cannot_send_requests_as_the_user() -> None:
    app = make_app(make_settings())

    @app.api_route("/name", methods=["GET", "POST"])
    async def name(user: CurrentUser) -> str:
        return user.user

    async with run_app(app) as live, live.http() as http:
        cookie = {"Cookie": signed(live, {"user": "alice"})}
        for method, origin, status in (
            ("GET", "https://evil.example", 200),
            ("POST", "https://evil.example", 403),
            ("POST", ORIGIN, 200),
        ):
            answer = await http.request(method, "/name", headers=cookie | {"Origin": origin})
            assert answer.status_code == status


async def test_the_log_tells_why_a_cookie_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_service(make_settings(session_max_age_s=60)) as live:
        with monkeypatch.context() as past:
            past.setattr(TimestampSigner, "get_timestamp", lambda signer: 1)
            old = signed(live, {"user": "alice"})
        causes = {
            "": "no cookie",
            "session=nonsense": "bad signature",
            signed(live, {"user": "alice"}, "strange-" * 8): "bad signature",
            old: "the session is too old, or not valid yet",
            signed(live, {"user": ""}): "the user's name is not 1 to 128 visible characters",
            signed(live, ["alice"]): "the session names no user",
        }
        for cookie, cause in causes.items():
            with capture_logs() as lines:
                client = await live.connect_with(with_cookie(live, cookie), welcomed=False)
                await client.closed()
            assert [line["cause"] for line in lines] == [cause]
            assert not cookie or cookie.removeprefix("session=") not in str(lines)


def test_the_asyncapi_document_has_the_name_of_the_cookie() -> None:
    document = make_app(make_settings(session_cookie="site")).asyncapi("http://localhost")
    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["in"], scheme["name"]) == ("cookie", "site")
