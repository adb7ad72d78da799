"""Health checks, and the routes of the backend."""

import re
from collections.abc import AsyncIterator
from copy import copy
from http.client import responses
from typing import Any

import httpx
import pytest
from fastapi import Request
from structlog.testing import capture_logs

from app.realtime.errors import PROBLEM_TYPE
from app.realtime.fields import MIN_SECRET_BYTES
from app.realtime.protocol import REVOKED

from ..engine import make_app
from ..live import BACKEND, Live, make_settings, run_app, run_service, wait_until


async def test_a_running_service_is_alive_and_ready(live: Live) -> None:
    assert (await live.get("/livez")).json() == {"status": "alive"}
    ready = await live.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


async def test_a_draining_service_is_alive_but_not_ready() -> None:
    async with run_service() as live:
        live.service.stopping = True
        assert (await live.get("/livez")).status_code == 200
        ready = await live.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": "draining"})


async def test_publish_to_a_user_and_to_all(live: Live) -> None:
    alice = await live.connect("alice")
    bob = await live.connect("bob")
    answer = await live.post("/publish", {"data": 1, "user": alice.user})
    assert (answer.status_code, answer.json()) == (202, {"status": "accepted", "reached": 1})
    assert await alice.receive() == {"type": "message", "from": None, "data": 1, "to": "user"}
    assert (await live.post("/publish", {"data": 2})).status_code == 202
    for client in (alice, bob):
        assert await client.receive() == {"type": "message", "from": None, "data": 2, "to": "all"}


async def test_publish_to_an_absent_user_says_that_nobody_was_reached(live: Live) -> None:
    answer = await live.post("/publish", {"data": 1, "user": "nobody"})
    assert answer.json() == {"status": "accepted", "reached": 0}


async def test_a_repeated_request_has_the_first_answer(live: Live) -> None:
    client = await live.connect("alice")
    body = {"data": 1, "user": client.user}
    first = await live.post("/publish", body, headers={"Idempotency-Key": "reached"})
    await client.close()
    await wait_until(lambda: len(live.service.manager) == 0)
    again = await live.post("/publish", body, headers={"Idempotency-Key": "reached"})
    assert first.json() == again.json() == {"status": "accepted", "reached": 1}


async def test_the_name_of_an_unknown_field_is_not_repeated(live: Live) -> None:
    answer = await live.post("/publish", {"data": 1, "<b>": 2})
    assert answer.status_code == 422
    assert "<b>" not in answer.text


async def test_a_user_is_online_or_not(live: Live) -> None:
    client = await live.connect("alice")
    online = await live.get(f"/users/{client.user}", key=BACKEND)
    assert (online.status_code, online.json()) == (200, {"online": True, "nodes": 1})
    for user in ("nobody", "with/slash", "%2e%2e/x", "ü%20%F0%9F%91%A9"):
        offline = await live.get(f"/users/{user}", key=BACKEND)
        assert (offline.status_code, offline.json()) == (200, {"online": False, "nodes": 0})
    assert (await live.get("/users/" + "x" * 129, key=BACKEND)).status_code == 422
    assert (await live.get("/users/", key=BACKEND)).status_code == 422
    assert (await live.get(f"/users/{client.user}", key="wrong")).status_code == 401


async def test_routes_of_the_team_come_first() -> None:
    app = make_app(make_settings())

    @app.get("/users/me")
    async def me() -> str:
        return "mine"

    async with run_app(app) as live:
        assert (await live.get("/users/me")).json() == "mine"
        assert (await live.get("/users/you", key=BACKEND)).json()["online"] is False
    assert "/users/{user}" in app.openapi()["paths"]


async def test_a_path_with_a_trailing_slash_is_not_found(live: Live) -> None:
    assert (await live.get("/livez/")).status_code == 404


async def test_without_a_backend_key_the_routes_do_not_exist() -> None:
    async with run_service() as live:
        keyless = live.settings.model_copy(update={"backend_key": None})
        app: Any = live.server.config.app
        app.state.service = copy(live.service)
        app.state.service.settings = keyless
        assert (await live.post("/publish", {"data": 1}, key="any")).status_code == 404
        assert (await live.get("/users/alice", key="any")).status_code == 404


@pytest.mark.parametrize("key", ["-", "wrong", "x" * MIN_SECRET_BYTES])
async def test_publish_needs_the_key(live: Live, key: str) -> None:
    answer = await live.post("/publish", {"data": 1}, key=key)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{}",
        '{"data": 1, "surplus": 2}',
        '{"data": 1, "user": ""}',
        '{"data": 1, "user": 7}',
        '{"data": 1, "user": null}',
        '{"data": NaN}',
        '{"data": 1e400}',
        '{"data": "\\ud800"}',
        '{"data": ' + "[" * 10_000 + "}",
    ],
)
async def test_publish_refuses_bad_bodies(live: Live, body: str) -> None:
    answer = await post_raw(live, body)
    assert answer.status_code == 422
    assert answer.json()["detail"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_publish_refuses_bodies_over_the_message_limit(live: Live, chunked: bool) -> None:
    body = b'"' + b"x" * live.settings.max_message_bytes + b'"'
    with capture_logs() as lines:
        answer = await post_raw(live, in_chunks(body) if chunked else body)
    assert ("content-length" in answer.request.headers) is not chunked
    assert answer.headers["content-type"] == PROBLEM_TYPE
    assert answer.status_code == 413
    assert answer.json() == {
        "type": "about:blank",
        "title": responses[413],
        "status": 413,
        "detail": f"the body has more than {live.settings.max_message_bytes} bytes",
        "code": "too_large",
    }
    (line,) = lines
    assert (line["route"], line["status"]) == ("/publish", 413)
    assert line["reason"] == "too_large"


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 16_384):
        yield body[start : start + 16_384]


async def test_publish_refuses_data_that_is_too_large_when_encoded_again(live: Live) -> None:
    numbers = live.settings.max_message_bytes // len("1e15,") - 10
    body = '{"data": [' + ",".join(["1e15"] * numbers) + "]}"
    answer = await post_raw(live, body)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.json()["detail"].startswith("encoded again, the data has ")


async def test_a_route_may_have_a_limit_of_its_own() -> None:
    app = make_app(make_settings(max_message_bytes=1_024))

    @app.post("/small", max_body_size=8)
    @app.post("/large", max_body_size=4_096)
    @app.post("/vast", max_body_size=1_000_000)
    async def take(request: Request) -> int:
        return len(await request.body())

    async with run_app(app) as live:
        assert (await live.post("/small", "123456789")).status_code == 413
        assert (await live.post("/large", "x" * 2_000)).json() == 2_002
        assert (await live.post("/large", "x" * 5_000)).status_code == 413
        # The server's own limit, see docs/extending.md
        assert (await live.post("/vast", "x" * 2_046)).json() == 2 * 1_024
        assert (await live.post("/vast", "x" * 900_000)).status_code == 413


async def post_raw(live: Live, body: str | bytes | AsyncIterator[bytes]) -> httpx.Response:
    key = live.settings.backend_key
    assert key is not None
    async with live.http() as http:
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"}
        return await http.post("/publish", content=body, headers=headers)


@pytest.mark.hostile(43)
async def test_disconnect_closes_every_connection_of_one_user(live: Live) -> None:
    here, there, other = [await live.connect(user) for user in ("alice", "alice", "bob")]
    await live.post("/publish", {"data": "before", "user": here.user})
    for user in dict.fromkeys((here.user, there.user)):
        assert (await live.post("/disconnect", {"user": user})).status_code == 202
    assert (await here.receive("message"))["data"] == "before"
    for client in (here, there):
        assert await client.closed() == REVOKED
    assert await other.is_quiet()
    assert (await live.post("/disconnect", {"user": "nobody"})).status_code == 202


async def test_disconnect_needs_the_key_and_a_user(live: Live) -> None:
    assert (await live.post("/disconnect", {"user": "alice"}, key="wrong")).status_code == 401
    for body in ({}, {"user": ""}, {"user": None}, {"user": "a", "surplus": 1}):
        assert (await live.post("/disconnect", body)).status_code == 422


@pytest.mark.parametrize(("environment", "status"), [("development", 200), ("production", 404)])
async def test_the_interactive_docs_are_for_development_only(environment: str, status: int) -> None:
    async with run_service(make_settings(environment=environment)) as live:
        for path in ("/", "/page/base.css", "/docs/", "/docs/swagger-ui-bundle.js"):
            assert (await live.get(path)).status_code == status
        for description in ("/openapi.json", "/asyncapi.json"):
            assert (await live.get(description)).status_code == status


@pytest.mark.parametrize(
    ("path", "script", "standard"),
    [("/docs", "start.js", "openapi"), ("/docs/ws", "page.js", "asyncapi")],
)
async def test_the_interactive_docs_need_no_other_host(
    path: str, script: str, standard: str
) -> None:
    async with run_service(make_settings(environment="development")) as live, live.http() as http:
        page = await http.get(path, follow_redirects=True)
        assert "text/html" in page.headers["content-type"]
        links = re.findall(r'(?:href|src)="([^"]+)"', page.text)
        assert script in links
        for link in links:
            assert (await http.get(page.url.join(link))).status_code == 200
        start = (await http.get(page.url.join(script))).text
        (description,) = re.findall(r'"([./]+\w+\.json)"', start)
        assert (await http.get(page.url.join(description))).json()[standard]
        assert not re.search(r"\bhttps?:|[\"'(]//", page.text + start)
        # A strict Content-Security-Policy refuses scripts and styles within the page.
        assert not re.search(r"<style|<script>|\bon\w+=|style=", page.text)
