"""Another app that mounts the service."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from app.realtime import Application, get_service

from ..engine import make_app
from ..live import make_settings
from .test_request_log import SECRET, requests


@pytest.fixture
def inner() -> Application:
    """Return the service."""
    return make_app(make_settings())


@pytest.fixture
def outer(inner: Application) -> FastAPI:
    """Return an app that mounts it."""
    app = FastAPI()
    app.mount("/realtime", inner)
    return app


@pytest.fixture
async def client(outer: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of the outer app."""
    transport = httpx.ASGITransport(outer, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def test_a_route_without_the_service_is_told_what_to_do(outer: FastAPI) -> None:
    outer.add_api_route("/own", get_service, response_model=None)
    transport = httpx.ASGITransport(outer)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        with pytest.raises(RuntimeError, match="set its state"):
            await client.get("/own")


async def test_the_routes_of_the_service_are_those_in_the_service(
    inner: Application, client: httpx.AsyncClient
) -> None:
    @inner.get("/items/{name}")
    @inner.put("/items/{name}")
    async def item(name: str) -> str:
        return name

    with capture_logs() as lines:
        assert (await client.get("/realtime/livez")).status_code == 200
        assert (await client.get(f"/realtime/items/{SECRET}")).status_code == 200
        refused = await client.delete(f"/realtime/items/{SECRET}")
        await client.get("/realtime/client/client.js")
    assert refused.headers["Allow"] == "GET, PUT"
    routes = [line["route"] for line in requests(lines)]
    assert routes == ["/items/{name}", "/items/{name}", "/client"]


async def test_a_server_need_not_tell_a_root_path(inner: Application) -> None:
    async def without(scope: Scope, receive: Receive, send: Send) -> None:
        del scope["root_path"]
        await inner(scope, receive, send)

    transport = httpx.ASGITransport(without)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        with capture_logs() as lines:
            assert (await client.get(f"/client/{SECRET}")).status_code == 404
    assert [line["route"] for line in requests(lines)] == ["/client"]


async def test_the_outer_app_may_answer_failures_like_the_service(
    inner: Application, outer: FastAPI, client: httpx.AsyncClient
) -> None:
    outer.exception_handlers |= inner.exception_handlers

    @outer.get("/outer/{name}")
    async def fail(name: str) -> None:
        raise ConnectionRefusedError

    with capture_logs() as lines:
        assert (await client.get(f"/outer/{SECRET}")).json()["code"] == "unavailable"
    assert [line["route"] for line in lines] == ["/outer/{name}"]
