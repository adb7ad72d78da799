"""The application is an ordinary FastAPI app, with extension points for the team."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import httpx
import prometheus_client
import pytest
from fastapi import Depends, FastAPI, Request, WebSocketException
from fastapi.testclient import TestClient
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.realtime import (
    Application,
    Authenticator,
    Command,
    CommandRouter,
    Connection,
    CurrentUser,
    Identity,
    Job,
    Ok,
    Policy,
    Service,
    Unauthorized,
)
from app.realtime.errors import PROBLEM_TYPE
from app.realtime.protocol import UNAUTHORIZED

from .client import DEADLINE_S
from .live import make_settings, run_app, run_service, served, wait_until


class Trusting(Authenticator):
    """Trusts the ``user`` in the query."""

    needs_origin = False

    async def authenticate(self, handshake: HTTPConnection) -> Identity:
        """Return the user of the query."""
        user = handshake.query_params.get("user")
        if user is None:
            raise Unauthorized("no user")
        return Identity(user)


def make_trusting(**parts: Any) -> Application:
    """Return an application with this authenticator."""
    settings = make_settings(environment="development")
    return Application(settings, authenticator=Trusting(settings), policy=Policy(), **parts)


async def welcome(port: int, path: str = "/ws") -> dict[str, Any]:
    """Connect as alice and return the first frame."""
    async with connect(f"ws://127.0.0.1:{port}{path}?user=alice", proxy=None) as client:
        async with asyncio.timeout(DEADLINE_S):
            frame: dict[str, Any] = json.loads(await client.recv())
    return frame


async def test_plain_uvicorn_serves_the_app() -> None:
    async with served(make_trusting()) as port:
        assert (await welcome(port))["user"] == "alice"


async def test_plain_uvicorn_serves_the_app_below_a_root_path() -> None:
    async with served(make_trusting(), root_path="/api") as port:
        assert (await welcome(port))["user"] == "alice"


async def test_another_app_may_mount_the_app_and_run_its_lifespan() -> None:
    child = make_trusting()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with child.router.lifespan_context(child):
            yield

    parent = FastAPI(lifespan=lifespan)
    parent.mount("/realtime", child)
    async with served(parent) as port:
        assert (await welcome(port, "/realtime/ws"))["user"] == "alice"


async def test_a_mounted_app_without_its_lifespan_refuses_connections() -> None:
    parent, child = FastAPI(), make_trusting()
    parent.mount("/realtime", child)
    async with served(parent) as port:
        with pytest.raises(InvalidStatus) as refused:
            await welcome(port, "/realtime/ws")
    assert refused.value.response.status_code == 503
    assert b'{reason="the lifespan does not run",status="503"} 1.0' in child.service.metrics.text()


async def test_a_server_need_not_offer_lifespan_state() -> None:
    app, sent = make_trusting(), asyncio.Queue[Message]()
    events: asyncio.Queue[Message] = asyncio.Queue()
    events.put_nowait({"type": "lifespan.startup"})
    running = asyncio.create_task(app({"type": "lifespan"}, events.get, sent.put))
    assert (await sent.get())["type"] == "lifespan.startup.complete"
    events.put_nowait({"type": "lifespan.shutdown"})
    assert (await sent.get())["type"] == "lifespan.shutdown.complete"
    await running


async def test_middleware_sees_connections() -> None:
    seen: list[str] = []

    class Middleware:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope["type"])
            await self.app(scope, receive, send)

    app = make_trusting()
    app.add_middleware(Middleware)
    async with run_app(app) as live:
        assert (await welcome(live.port))["user"] == "alice"
    assert "websocket" in seen


async def test_dependencies_of_the_whole_app_guard_connections() -> None:
    def refuse() -> None:
        raise WebSocketException(4321)

    async with run_app(make_trusting(dependencies=[Depends(refuse)])) as live:
        with pytest.raises(InvalidStatus) as refused:
            await welcome(live.port)
    assert refused.value.response.status_code == 403


async def test_a_lifespan_of_the_team_runs_around_the_service() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        events.append("start")
        yield {"key": "value"}
        events.append("end")

    app = make_trusting(lifespan=lifespan)

    @app.get("/key")
    async def key(request: Request) -> str:
        return str(request.state.key)

    async with run_app(app) as live:
        assert (await welcome(live.port))["user"] == "alice"
        assert (await live.get("/key")).json() == "value"
        assert events == ["start"]
    assert events == ["start", "end"]


def test_the_test_client_connects() -> None:
    with TestClient(make_trusting()) as client, client.websocket_connect("/ws?user=bob") as socket:
        assert socket.receive_json()["user"] == "bob"
        socket.send_json({"type": "ping", "id": "1"})
        assert socket.receive_json() == {"type": "pong", "id": "1"}


async def test_openapi_describes_the_routes_of_the_backend() -> None:
    async with run_app(make_trusting()) as live:
        described = (await live.get("/openapi.json")).json()
    assert described["info"]["title"] != "FastAPI"
    publish = described["paths"]["/publish"]["post"]
    body = publish["requestBody"]["content"]["application/json"]["schema"]
    assert {"data", "user"} <= body["properties"].keys()
    assert {"202", "409"} <= publish["responses"].keys()
    operations = [each for path in described["paths"].values() for each in path.values()]
    named = {each["name"] for each in described["tags"]}
    assert {tag for each in operations for tag in each["tags"]} == named
    assert publish["operationId"] == "publish"
    assert all(re.fullmatch("[a-z]+(_[a-z]+)?", each["operationId"]) for each in operations)
    metrics = described["paths"]["/metrics"]["get"]["responses"]["200"]
    assert metrics["content"].keys() == {"text/plain"}
    backend = [each for each in operations if each["tags"] == ["backend"]]
    assert publish in backend
    for operation in backend:
        assert {"BACKEND_KEY": []} in operation["security"]
        refusals = {"401", "404", "422", "503"} | ({"413"} if "requestBody" in operation else set())
        for status in refusals:
            assert PROBLEM_TYPE in operation["responses"][status]["content"]


async def test_probes_may_use_head(anyio_backend: object) -> None:
    async with run_service() as live, live.http() as http:
        for path in ("/livez", "/readyz"):
            assert (await http.head(path)).status_code == 200


async def test_a_route_can_depend_on_the_user() -> None:
    app = make_trusting()

    @app.get("/me")
    async def me(user: CurrentUser) -> str:
        return user.user

    async with run_app(app) as live:
        assert (await live.get("/me?user=carol")).json() == "carol"
        refused = await live.get("/me")
        assert (refused.status_code, refused.json()["detail"]) == (401, "unauthorized")


async def test_a_route_of_the_team_comes_before_the_page() -> None:
    app = make_trusting()

    @app.get("/")
    async def home() -> str:
        return "home"

    async with run_app(app) as live:
        assert (await live.get("/")).json() == "home"
        assert (await live.get("/nowhere")).status_code == 404


async def test_resources_are_open_while_jobs_and_handlers_run() -> None:
    happened: list[str] = []

    @asynccontextmanager
    async def open_resources(service: Service) -> AsyncIterator[list[str]]:
        happened.append("opened")
        yield happened
        happened.append("closed")

    async def work(service: Service) -> None:
        service.resources.append("worked")

    async def is_ready(service: Service) -> bool:
        return "worked" in service.resources

    app = make_trusting(resources=open_resources, jobs=[Job(work)], ready=is_ready)
    async with run_app(app) as live:
        await wait_until(lambda: "worked" in happened)
        assert (await live.get("/readyz")).status_code == 200
        happened.remove("worked")
        unready = await live.get("/readyz")
        assert (unready.status_code, unready.json()) == (503, {"status": "resources not ready"})
    assert happened == ["opened", "closed"]


async def test_without_its_lifespan_the_application_is_not_ready() -> None:
    transport = httpx.ASGITransport(make_trusting())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "not started"})


async def test_a_service_whose_readiness_check_fails_or_hangs_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.realtime.http.health.READY_TIMEOUT_S", 0.01)

    async def hang(service: Service) -> bool:
        return await asyncio.Event().wait()

    async def fail(service: Service) -> bool:
        raise OSError

    async def cancel(service: Service) -> bool:
        raise asyncio.CancelledError

    for ready in (hang, fail, cancel):
        async with run_app(make_trusting(ready=ready)) as live:
            assert (await live.get("/readyz")).status_code == 503


class OwnPing(Command):
    """Takes the place of the built-in `ping`."""

    type: Literal["ping"]


async def test_begin_sets_the_state_of_a_connection() -> None:
    router = CommandRouter()
    seen: list[object] = []

    @router.connecting
    async def begin(service: Service, connection: Connection) -> str:
        return f"state of {connection.user}"

    @router.connected
    async def note(service: Service, connection: Connection) -> None:
        seen.append(connection.state)

    async with run_app(make_trusting(commands=router)) as live:
        await welcome(live.port)
        await wait_until(lambda: seen == ["state of alice"])


async def test_begin_may_refuse_a_connection() -> None:
    router = CommandRouter()

    @router.connecting
    async def begin(service: Service, connection: Connection) -> None:
        raise Unauthorized

    async with run_service(commands=router) as live:
        client = await live.connect_with(await live.options(), welcomed=False)
        assert await client.closed() == UNAUTHORIZED
        assert len(live.service.manager) == 0


async def test_a_command_replaces_the_built_in_command_of_its_type() -> None:
    router = CommandRouter()

    @router.command(OwnPing)
    async def ping(service: Service, connection: Connection, command: OwnPing) -> Ok:
        return Ok()

    async with run_service(commands=router) as live:
        client = await live.connect()
        assert (await client.ask(type="ping"))["type"] == "ok"


async def test_metrics_of_the_team_are_exported() -> None:
    counter = prometheus_client.Counter("team_orders", "Orders of the team.", ["kind"])
    try:
        counter.labels("new").inc()
        key = "a-key-for-the-monitoring-" * 2
        async with run_service(make_settings(metrics_key=key)) as live:
            answer = await live.get("/metrics", key)
        assert 'team_orders_total{kind="new"} 1.0' in answer.text
        assert "process_cpu_seconds_total" in answer.text
    finally:
        prometheus_client.REGISTRY.unregister(counter)
