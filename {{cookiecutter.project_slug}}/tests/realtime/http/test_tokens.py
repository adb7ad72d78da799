"""The tokens for development, in place of those of your backend."""

from time import time

import httpx
import pytest

from ..auth.test_jwt import with_token
from ..client import Client
from ..engine import make_app
from ..live import Live, make_settings, run_app, run_service


async def request_token(live: Live, body: object) -> httpx.Response:
    return await live.post("/tokens", body, key="")


async def connected(live: Live, body: object) -> Client:
    """Connect with a token that the service has issued."""
    answer = await request_token(live, body)
    assert answer.status_code == 201
    return await live.connect_with(with_token(live, answer.json()["token"]))


async def test_any_user_gets_a_token() -> None:
    settings = make_settings(environment="development", jwt_audience="app", jwt_issuer="us")
    async with run_service(settings) as live:
        assert (await connected(live, {"user": "alice"})).user == "alice"


async def test_a_token_lasts_as_long_as_asked() -> None:
    async with run_service(make_settings(environment="development")) as live:
        before = time()
        client = await connected(live, {"user": "alice", "lifetime_s": 60})
        # Signed in whole seconds
        assert before + 59 <= client.welcome["expires_at"] <= time() + 60


@pytest.mark.parametrize("body", [{}, {"user": " "}, {"user": "a", "lifetime_s": 0}, {"sub": "a"}])
async def test_bad_requests_are_refused(body: object) -> None:
    async with run_service(make_settings(environment="development")) as live:
        assert (await request_token(live, body)).status_code == 422


async def test_without_a_secret_the_answer_says_that_it_is_not_set() -> None:
    settings = make_settings(
        environment="development", jwt_secret=None, jwt_jwks_url="http://127.0.0.1:1/jwks"
    )
    async with run_service(settings) as live:
        answer = await request_token(live, {"user": "alice"})
        assert answer.status_code == 403
        assert "JWT_SECRET is not set" in answer.json()["detail"]


async def test_a_route_of_your_own_replaces_it() -> None:
    app = make_app(make_settings(environment="development"))

    @app.post("/tokens")
    def issue_token() -> str:
        return "mine"

    async with run_app(app) as live:
        assert (await request_token(live, {"user": "alice"})).json() == "mine"


async def test_in_production_the_route_does_not_exist(live: Live) -> None:
    assert live.settings.environment == "production"
    assert (await request_token(live, {"user": "alice"})).status_code == 404
