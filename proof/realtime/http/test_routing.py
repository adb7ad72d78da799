"""Paths and methods of routes in routers and mounts, and the engine's dependencies there."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from fastapi.staticfiles import StaticFiles
from fastapi.testclient import TestClient
from structlog.testing import capture_logs
from websockets.asyncio.client import connect

from app.realtime import CurrentUser, Service, get_service

from ..engine import make_app
from ..live import BACKEND, make_settings, run_app, wait_until
from .test_errors import described
from .test_request_log import SECRET, requests


async def test_the_route_is_whole_in_routers_and_in_mounts(tmp_path: Path) -> None:
    (tmp_path / SECRET).touch()
    app = make_app(make_settings(environment="development"))
    router, mounted = APIRouter(), FastAPI()
    router.mount("/files", StaticFiles(directory=tmp_path))

    @router.get("/items")
    @mounted.get("/items/{name}")
    async def item(name: str = "") -> str:
        return name

    app.include_router(router, prefix="/v1")
    app.mount("/sites/{site}", mounted)
    paths = {
        "/": "/",
        "/openapi.json": "/openapi.json",
        "/docs/start.js": "/docs",
        "/client/client.js": "/client",
        f"/client/{SECRET}": "/client",
        "/v1/items": "/v1/items",
        f"/v1/files/{SECRET}": "/v1/files",
        f"/sites/{SECRET}/items/{SECRET}": "/sites/{site}/items/{name}",
        f"/sites/{SECRET}/{SECRET}": "/sites/{site}",
    }
    async with run_app(app) as live:
        with capture_logs() as lines:
            for path in paths:
                await live.get(path)
            await wait_until(lambda: len(requests(lines)) == len(paths))
    assert {line["route"] for line in requests(lines)} == set(paths.values())
    assert SECRET not in str(lines)


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


@pytest.mark.parametrize("environment", ["development", "production"])
async def test_a_site_at_the_root_leaves_the_engine_its_routes(
    tmp_path: Path, environment: str
) -> None:
    (tmp_path / "index.html").write_text("the team's page")
    app = make_app(make_settings(environment=environment))
    app.mount("/", StaticFiles(directory=tmp_path, html=True))
    async with run_app(app) as live:
        assert (await live.get("/")).text == "the team's page"
        for path in ("/readyz", "/users/alice", "/client/client.js"):
            assert (await live.get(path, BACKEND)).status_code == 200
        assert (await live.post("/publish", {"data": 1})).status_code == 202
        assert (await (await live.connect()).ask(type="ping"))["type"] == "pong"


async def test_a_route_at_the_root_wins_over_a_site_there(tmp_path: Path) -> None:
    app = make_app(make_settings(environment="development"))
    app.mount("/", StaticFiles(directory=tmp_path))

    @app.get("/")
    async def hello() -> str:
        return "hello"

    async with run_app(app) as live:
        assert (await live.get("/")).json() == "hello"


def test_a_site_at_the_root_stays_there_at_the_second_start(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("the team's page")
    app = make_app(make_settings(environment="development"))
    app.mount("/", StaticFiles(directory=tmp_path, html=True))
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/").text == "the team's page"


def test_routes_have_their_order_without_the_lifespan() -> None:
    app = make_app(make_settings(environment="development"))

    @app.get("/users/me")
    @app.get("/")
    async def own() -> str:
        return "own"

    for path in ("/users/me", "/"):
        assert TestClient(app).get(path).json() == "own"


def test_routes_that_are_added_later_have_their_order_from_the_next_start() -> None:
    app = make_app(make_settings())
    with TestClient(app):
        app.add_api_route("/users/me", lambda: "own")
    with TestClient(app) as client:
        assert client.get("/users/me").json() == "own"


THREADS = 40
"""In which the routes of an app run that are declared with ``def``, by default of AnyIO."""


async def test_routes_that_use_up_the_threads_do_not_delay_those_of_the_engine() -> None:
    app, goes_on = make_app(make_settings()), threading.Event()
    running: list[int] = []

    @app.get("/wait")
    def wait() -> None:
        running.append(1)
        goes_on.wait()

    async with run_app(app) as live, asyncio.TaskGroup() as tasks:
        try:
            for _ in range(THREADS):
                tasks.create_task(live.get("/wait"))
            await wait_until(lambda: len(running) == THREADS)
            assert (await live.get("/readyz")).status_code == 200
            assert (await live.post("/publish", {"data": 1})).status_code == 202
        finally:
            goes_on.set()


async def test_a_websocket_route_can_depend_on_the_user_and_on_the_service() -> None:
    app = make_app(make_settings())

    @app.websocket("/own")
    async def own(
        websocket: WebSocket, user: CurrentUser, service: Annotated[Service, Depends(get_service)]
    ) -> None:
        await websocket.accept()
        await websocket.send_json([user.user, service is app.service])
        await websocket.close()

    async with run_app(app) as live:
        options = await live.options()
        uri, headers = options.uri.replace("/ws", "/own"), options.headers
        async with connect(uri, additional_headers=headers, proxy=None) as client:
            name, is_service = json.loads(await client.recv())
    assert name
    assert is_service


@pytest.mark.parametrize("path", ["/tokens", "/login"])
async def test_pages_of_other_origins_get_no_credentials(path: str) -> None:
    """A name that leads to this machine (DNS rebinding) makes a stranger's page same-origin."""
    app = make_app(make_settings(environment="development"))
    with capture_logs() as lines:
        async with run_app(app) as live:
            origins = "http://evil.example:8000", live.http_url
            body = {"user": "alice"}
            answers = [await live.post(path, body, headers={"Origin": each}) for each in origins]
    statuses = [answer.status_code for answer in answers]
    assert statuses in ([403, 201], [403, 204], [404, 404])
    if statuses[0] == 403:
        assert requests(lines)[0]["reason"] == "origin not allowed"
