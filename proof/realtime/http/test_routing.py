"""Paths and methods of routes in routers and mounts."""

from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.staticfiles import StaticFiles
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

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
