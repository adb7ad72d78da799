"""HTTP requests in the log: by route, with the reason of a refusal, without what clients wrote."""

from typing import Annotated, Any

import pytest
from fastapi import Body, HTTPException, status
from structlog.testing import capture_logs
from structlog.typing import EventDict

from app.realtime import CurrentUser

from ..engine import make_app
from ..live import make_settings, run_app, run_service

SECRET = "a-secret-of-the-client"


def requests(lines: list[EventDict]) -> list[dict[str, Any]]:
    """Return the lines of requests, without the time that they took."""
    found = [dict(line) for line in lines if line["event"] == "request"]
    for line in found:
        assert line.pop("ms") >= 0
        assert line.pop("log_level") == "info"
        del line["event"]
    return found


async def test_a_request_is_one_line_with_its_route() -> None:
    app = make_app(make_settings())

    @app.get("/items/{name}")
    async def item(name: str) -> str:
        return name

    async with run_app(app) as live:
        with capture_logs() as lines:
            assert (await live.get(f"/items/{SECRET}?token={SECRET}")).status_code == 200
            assert (await live.get(f"/{SECRET}")).status_code == 404
    assert requests(lines) == [
        {"method": "GET", "route": "/items/{name}", "status": 200},
        {"method": "GET", "route": None, "status": 404, "reason": "Not Found"},
    ]
    assert SECRET not in str(lines)


async def test_a_refusal_has_its_reason() -> None:
    app = make_app(make_settings(metrics_key=None))

    @app.get("/me")
    async def me(user: CurrentUser) -> str:
        return user.user

    async with run_app(app) as live:
        with capture_logs() as lines:
            await live.post("/publish", {"data": 1}, key=SECRET)
            await live.get("/metrics")
            await live.get("/me")
    publish, metrics, mine = requests(lines)
    assert (publish["status"], publish["reason"]) == (401, "BACKEND_KEY is missing or wrong")
    assert (metrics["status"], metrics["reason"]) == (404, "METRICS_KEY is not set")
    # {% if cookiecutter.auth == "none" %}
    assert mine == {"method": "GET", "route": "/me", "status": 200}
    # {% else %}
    assert (mine["status"], bool(mine["reason"])) == (401, True)
    # {% endif %}
    assert SECRET not in str(lines)


async def test_the_reason_is_never_text_of_the_client() -> None:
    app = make_app(make_settings())

    @app.get("/items/{name}")
    async def item(name: str, limits: Annotated[dict[str, int], Body()]) -> None:
        raise HTTPException(status.HTTP_409_CONFLICT, f"no {name}")

    async with run_app(app) as live, live.http() as http:
        with capture_logs() as lines:
            for body in ({}, {SECRET: SECRET}):
                await http.request("GET", f"/items/{SECRET}", json=body)
            await live.post("/publish", {SECRET: SECRET})
            await live.post(f"/items/{SECRET}", {})
    assert [(line["status"], line["reason"]) for line in requests(lines)] == [
        (409, "Conflict"),
        (422, "bad_request"),
        (422, "bad_request"),
        (405, "Method Not Allowed"),
    ]
    assert SECRET not in str(lines)


async def test_probes_are_logged_only_if_they_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_service() as live:
        with capture_logs() as lines:
            await live.get("/livez")
            await live.get("/readyz")
            monkeypatch.setattr(live.service, "stopping", True)
            await live.get("/readyz")
    line = {"method": "GET", "route": "/readyz", "status": 503, "reason": "draining"}
    assert requests(lines) == [line]


async def test_a_request_that_crashes_is_logged() -> None:
    app = make_app(make_settings())

    @app.get("/crash")
    async def crash() -> None:
        raise LookupError(SECRET)

    async with run_app(app) as live:
        with capture_logs() as lines:
            assert (await live.get("/crash")).status_code == 500
    line = {"method": "GET", "route": "/crash", "status": 500, "reason": "internal"}
    assert requests(lines) == [line]
