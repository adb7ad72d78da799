"""HTTP answers to errors of a route and of the engine."""

from http.client import responses

import httpx
from fastapi import HTTPException
from structlog.testing import capture_logs

from app.realtime import (
    BadRequest,
    CommandError,
    CommandRouter,
    Forbidden,
    LimitExceeded,
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
    Refused("at capacity"): (503, "Service Unavailable"),
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
        pause = "5" if isinstance(failure, Refused) else "1" if may_succeed(failure) else None
        assert answer.headers.get("Retry-After") == pause
        code = failure.code if isinstance(failure, CommandError) else None
        assert answer.json().get("code") in {code, "bad_request", "unavailable"}
    logged = [(line["route"], line["code"]) for line in lines if line["event"] == "handler failed"]
    assert logged == [("/own/{name}", code) for code in ["bad_request"] * 2 + ["unavailable"] * 2]


async def test_other_failures_of_a_route_are_problems_too() -> None:
    app = make_app(make_settings())
    failures = iter(
        [HTTPException(409, "sold out", {"X-Stock": "0"}), HTTPException(304), ZeroDivisionError()]
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
