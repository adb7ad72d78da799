"""Errors of an authenticator, for a handshake and for a route."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.realtime import CurrentUser, Identity, Unauthorized, Unavailable
from app.realtime.errors import Refused

from ..engine import make_app
from ..live import make_settings, run_app


async def hang(*_: object) -> None:
    await asyncio.Event().wait()


async def forget_to_return(*_: object) -> None:
    pass


def failing(failure: BaseException) -> Callable[..., Awaitable[None]]:
    async def fail(*_: object) -> None:
        raise failure

    return fail


def returning(*fields: Any) -> Callable[..., Awaitable[Identity]]:
    async def make_identity(*_: object) -> Identity:
        return Identity(*fields)

    return make_identity


AUTHENTICATORS: list[tuple[Callable[..., Awaitable[object]], int]] = [
    (hang, 503),
    (failing(OSError()), 503),
    (failing(TimeoutError()), 503),
    (failing(RuntimeError()), 500),
    (forget_to_return, 500),
    (failing(asyncio.CancelledError()), 500),
    (failing(SystemExit()), 500),
    (returning(7), 500),
    (returning("alice", "soon"), 500),
    (returning("alice", math.inf), 500),
    (returning("alice", 10**400), 500),
    (returning(""), 401),
    (returning("alice", time.time() - 1), 401),
    (failing(Unauthorized()), 401),
    (failing(Refused("origin not allowed")), 403),
]


async def test_errors_of_an_authenticator_have_their_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = make_app(make_settings())

    @app.get("/me")
    async def me(user: CurrentUser) -> str:
        return user.user

    async with run_app(app) as live:
        # Shorter only from here on: the server's own deadline for a request stays long.
        app.service.settings = make_settings(handshake_timeout_s=0.1)
        for authenticate, status in AUTHENTICATORS:
            monkeypatch.setattr(app.service.authenticator, "authenticate", authenticate)
            with capture_logs() as lines:
                answer = await live.get("/me")
            assert answer.status_code == status, authenticate
            assert answer.json()["detail"]
            expected = {503: ["authenticator down"], 500: ["authenticator failed"]}.get(status, [])
            events = [line["event"] for line in lines if "authenticator" in line["event"]]
            assert events == expected, authenticate


async def test_credentials_that_browsers_send_need_an_origin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = make_app(make_settings())
    monkeypatch.setattr(type(app.service.authenticator), "needs_origin", True)
    monkeypatch.setattr(app.service.authenticator, "authenticate", returning("alice"))

    @app.get("/me")
    @app.post("/me")
    async def me(user: CurrentUser) -> str:
        return user.user

    async with run_app(app) as live:
        assert (await live.get("/me")).json() == "alice"
        answer = await live.post("/me", {}, headers={"Origin": "https://evil.test"})
        assert answer.status_code == 403


async def test_the_cause_of_an_unavailable_authenticator_is_only_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app, cause = make_app(make_settings()), "the directory does not answer"
    monkeypatch.setattr(app.service.authenticator, "authenticate", failing(Unavailable(cause)))

    @app.get("/me")
    async def me(user: CurrentUser) -> str:
        return user.user

    async with run_app(app) as live:
        with capture_logs() as lines:
            answer = await live.get("/me")
    assert answer.status_code == 503
    assert cause not in answer.text
    assert [line["reason"] for line in lines if line["event"] == "request"] == [cause]
