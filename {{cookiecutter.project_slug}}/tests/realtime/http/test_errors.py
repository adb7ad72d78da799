"""HTTP answers to errors of the engine, of a policy and of the authenticator."""

import asyncio
from collections.abc import Awaitable, Callable
from http.client import responses

import httpx
import pytest
from fastapi import APIRouter, HTTPException
from structlog.testing import capture_logs

from app.realtime import (
    BadRequest,
    CommandError,
    CommandRouter,
    CurrentUser,
    Forbidden,
    LimitExceeded,
    # {% if cookiecutter.rooms %}
    Policy,
    # {% endif %}
    Unauthorized,
    Unavailable,
)
from app.realtime.errors import PROBLEM_TYPE, Flood, RateLimited, Refused, TimedOut

from ..engine import make_app
from ..live import make_settings, run_app


class OutOfStock(CommandError):
    """An error of the team."""

    code = "out_of_stock"
    status = 409


class Stale(ValueError):
    """An exception that the team maps to an error."""


class VeryStale(Stale):
    """Mapped by inheritance."""


ANSWERS: dict[Exception, tuple[int, str]] = {
    BadRequest("no text"): (400, "no text"),
    Forbidden("not you"): (403, "not you"),
    LimitExceeded("too many"): (429, "too many"),
    RateLimited("too fast"): (429, "too fast"),
    Unavailable("no database"): (503, "no database"),
    TimedOut(): (503, "the command took too long"),
    OutOfStock("sold out"): (409, "sold out"),
    Stale(): (400, "stale"),
    VeryStale(): (400, "stale"),
    OSError(): (503, "something that the service needs does not work now"),
    TimeoutError(): (503, "something that the service needs does not work now"),
    Unauthorized(): (401, "unauthorized"),
    Flood(): (503, "flood"),
    Refused(429, "a secret of the log", 7): (429, "Too Many Requests"),
}


def mapping() -> CommandRouter:
    """Return a router that maps `Stale` to an error."""
    router = CommandRouter()
    router.failures[Stale] = BadRequest("stale")
    return router


def described(answer: httpx.Response) -> tuple[int, str]:
    """Return the status and the detail of an answer, which is a problem (RFC 9457)."""
    assert answer.headers["content-type"] == PROBLEM_TYPE
    problem = answer.json()
    assert (problem["type"], problem["title"]) == ("about:blank", responses[answer.status_code])
    assert problem["status"] == answer.status_code
    return answer.status_code, problem["detail"]


async def test_errors_of_a_route_have_their_status() -> None:
    app = make_app(make_settings(), commands=mapping())
    failures = iter(ANSWERS)

    @app.get("/own/{name}")
    async def own(name: str) -> None:
        raise next(failures)

    with capture_logs() as lines:
        async with run_app(app) as live:
            answers = [await live.get("/own/alice") for _ in ANSWERS]
    assert [described(answer) for answer in answers] == list(ANSWERS.values())
    for failure, answer in zip(ANSWERS, answers, strict=True):
        pause = "7" if isinstance(failure, Refused) else "1" if may_succeed(failure) else None
        assert answer.headers.get("Retry-After") == pause
        code = failure.code if isinstance(failure, CommandError) else None
        assert answer.json().get("code") in {code, "bad_request", "unavailable"}
    logged = [(line["route"], line["code"]) for line in lines if line["event"] == "handler failed"]
    assert logged == [("/own/{name}", code) for code in ["bad_request"] * 2 + ["unavailable"] * 2]


async def test_a_wrong_method_is_answered_with_all_methods_of_the_path() -> None:
    app, router = make_app(make_settings()), APIRouter()

    @app.get("/own/{name}")
    @router.put("/{name}")
    @router.delete("/{name}")
    async def own(name: str) -> None: ...

    app.include_router(router, prefix="/own")
    allowed = {
        "/livez": "GET, HEAD",
        "/readyz": "GET, HEAD",
        "/metrics": "GET",
        "/own/alice": "DELETE, GET, PUT",
        "/client/client.js": "GET, HEAD",
    }
    async with run_app(app) as live:
        for path, methods in allowed.items():
            answer = await live.post(path, {})
            assert described(answer) == (405, "Method Not Allowed")
            assert answer.headers["Allow"] == methods


async def test_other_failures_of_a_route_are_problems_too() -> None:
    app = make_app(make_settings())
    failures = iter(
        [
            HTTPException(409, "sold out", {"X-Stock": "0"}),
            HTTPException(304),
            ZeroDivisionError(),
        ]
    )

    @app.get("/own")
    async def own(number: int = 0) -> None:
        raise next(failures)

    async with run_app(app) as live:
        sold_out, unchanged = [await live.get("/own") for _ in range(2)]
        with capture_logs():
            broken = await live.get("/own")
        invalid = await live.get("/own?number=x")
        others = [await live.get("/nowhere"), await live.post("/own", {})]
    assert described(sold_out) == (409, "sold out")
    assert sold_out.headers["X-Stock"] == "0"
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert described(broken) == (500, "the request failed inside the service")
    assert broken.json()["code"] == "internal"
    status, detail = described(invalid)
    assert (status, detail.partition(": ")[0]) == (422, "query.number")
    assert invalid.json()["code"] == "bad_request"
    assert [error["loc"] for error in invalid.json()["errors"]] == [["query", "number"]]
    assert "input" not in invalid.json()["errors"][0]
    assert [described(each)[0] for each in others] == [404, 405]


def may_succeed(failure: Exception) -> bool:
    """Return whether a retry may succeed."""
    return isinstance(failure, OSError | Unavailable | RateLimited | Flood)
# {% if cookiecutter.rooms %}


@pytest.mark.parametrize("waits", [False, True])
async def test_errors_of_a_policy_have_their_status(waits: bool) -> None:
    failures = iter(ANSWERS)

    class Refusing(Policy):
        def before_publish(self, *_: object) -> None:
            raise next(failures)

    class RefusingLater(Policy):
        async def before_publish(self, *_: object) -> None:
            raise next(failures)

    policy = RefusingLater() if waits else Refusing()
    async with run_app(make_app(make_settings(), policy=policy, commands=mapping())) as live:
        with capture_logs():
            body = {"room": "lobby", "data": 1}
            answers = [await live.post("/publish", body) for _ in ANSWERS]
    assert [described(answer) for answer in answers] == list(ANSWERS.values())


async def test_a_hanging_policy_times_out() -> None:
    class Hanging(Policy):
        async def before_publish(self, *_: object) -> None:
            await asyncio.Event().wait()

    app = make_app(make_settings(handler_timeout_s=0.05), policy=Hanging())
    async with run_app(app) as live:
        answer = await live.post("/publish", {"room": "lobby", "data": 1})
    assert described(answer) == (503, "the command took too long")
# {% endif %}


async def hang(*_: object) -> None:
    await asyncio.Event().wait()


def failing(failure: BaseException) -> Callable[..., Awaitable[None]]:
    async def fail(*_: object) -> None:
        raise failure

    return fail


AUTHENTICATORS: list[tuple[Callable[..., Awaitable[None]], int]] = [
    (hang, 503),
    (failing(OSError()), 503),
    (failing(TimeoutError()), 503),
    (failing(RuntimeError()), 500),
    (failing(asyncio.CancelledError()), 500),
    (failing(SystemExit()), 500),
    (failing(Unauthorized()), 401),
    (failing(Refused(403, "not from there")), 403),
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
            events = [line["event"] for line in lines if "authenticator" in line["event"]]
            assert events == {503: ["authenticator down"], 500: ["authenticator failed"]}.get(
                status, []
            )
