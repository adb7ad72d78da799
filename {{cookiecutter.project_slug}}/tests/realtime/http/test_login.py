"""The login for development, in place of the site's own."""

from time import time

import httpx
import pytest
from pydantic import ValidationError

from dev import javascript

from ..auth.test_session import with_cookie
from ..live import Live, make_settings, run_service


async def sign_in(live: Live, body: object) -> httpx.Response:
    return await live.post("/login", body, key="")


async def test_a_login_sets_the_cookie() -> None:
    async with run_service(make_settings(environment="development")) as live:
        answer = await sign_in(live, {"user": "alice"})
        assert answer.status_code == 204
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" not in cookie  # so that a page can change the user
        assert "SameSite=lax" in cookie
        client = await live.connect_with(with_cookie(live, cookie.partition(";")[0]))
        assert client.user == "alice"


@pytest.mark.parametrize("prefix", ["__Host-", "__Secure-", ""])
async def test_a_cookie_is_secure_if_its_name_demands_it(prefix: str) -> None:
    """Otherwise browsers ignore it; a secure cookie also works on localhost without TLS."""
    settings = make_settings(environment="development", session_cookie=f"{prefix}session")
    async with run_service(settings) as live:
        cookie = (await sign_in(live, {"user": "alice"})).headers["set-cookie"]
    assert ("Secure" in cookie.partition(";")[2]) == bool(prefix)
    line = javascript("ws://localhost:8000/ws", cookie.partition(";")[0])
    assert ("; path=/; secure" in line) == bool(prefix)


@pytest.mark.parametrize("name", ["my session", "a;b", "a=b", "sitzungsschlüssel", ""])
def test_an_invalid_name_of_a_cookie_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="session_cookie"):
        make_settings(session_cookie=name)


@pytest.mark.parametrize("body", [{}, {"user": " "}, {"user": 7}, {"user": "a", "admin": True}, []])
async def test_bad_requests_are_refused(body: object) -> None:
    async with run_service(make_settings(environment="development")) as live:
        answer = await sign_in(live, body)
        assert answer.status_code == 422
        assert "set-cookie" not in answer.headers


async def test_a_login_lasts_as_long_as_asked() -> None:
    async with run_service(make_settings(environment="development")) as live:
        before = time()
        answer = await sign_in(live, {"user": "alice", "lifetime_s": 60})
        cookie = answer.headers["set-cookie"].partition(";")[0]
        client = await live.connect_with(with_cookie(live, cookie))
        # Signed in whole seconds
        assert before + 59 <= client.welcome["expires_at"] <= time() + 60


async def test_in_production_the_route_does_not_exist(live: Live) -> None:
    assert live.settings.environment == "production"
    assert (await sign_in(live, {"user": "alice"})).status_code == 404
