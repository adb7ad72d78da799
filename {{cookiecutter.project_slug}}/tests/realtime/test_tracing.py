"""Commands and requests have spans if a tracer provider is set."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from app.realtime import BadRequest, Command, CommandRouter, tracing

from .live import Live, make_settings, run_service, wait_until

router = CommandRouter()


class Refuse(Command):
    """Fail by the client's fault."""

    type: Literal["refuse"]


class Crash(Command):
    """Fail inside the service."""

    type: Literal["crash"]


class Wait(Command):
    """Answer later."""

    type: Literal["wait"]


@router.command(Refuse)
async def refuse(service: Any, connection: Any, command: Refuse) -> None:
    raise BadRequest("a private reason")


@router.command(Crash)
async def crash(service: Any, connection: Any, command: Crash) -> None:
    raise LookupError("a private reason")


@router.command(Wait)
async def wait(service: Any, connection: Any, command: Wait) -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, None)
    return future


class Hang(Command):
    """Never answer."""

    type: Literal["hang"]


@router.command(Hang)
async def hang(service: Any, connection: Any, command: Hang) -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


Spans = Callable[[], dict[str, ReadableSpan]]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """Set a tracer provider; return a function that returns the finished spans by name."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return lambda: {span.name: span for span in exporter.get_finished_spans()}


@pytest.fixture
async def live(spans: Spans) -> AsyncIterator[Live]:
    """Run a service that is traced."""
    async with run_service(commands=router) as live:
        yield live


async def test_nothing_is_traced_without_a_provider() -> None:
    assert not tracing.is_on()
    async with run_service(commands=router) as live:
        client = await live.connect()
        assert (await client.ask(type="wait"))["type"] == "ok"
        handlers = live.server.app._endpoint.dispatcher._handlers
        assert set(handlers.values()) >= {refuse, crash, wait}


async def test_each_command_has_a_span_of_its_own(live: Live, spans: Spans) -> None:
    client, commands = await live.connect(), ("ping", "wait", "refuse", "crash")
    for command in commands:
        await client.ask(type=command)
    await wait_until(lambda: spans().keys() >= set(commands))
    found = {name: span for name, span in spans().items() if name in commands}
    assert len({span.context.trace_id for span in found.values() if span.context}) == 4
    assert {span.parent for span in found.values()} == {None}
    (connection,) = live.service.manager
    for span in found.values():
        assert dict(span.attributes or {}).pop("ws.connection") == connection.id
    assert error_of(found["wait"]) == (None, StatusCode.UNSET)
    assert error_of(found["refuse"]) == ("bad_request", StatusCode.UNSET)
    assert error_of(found["crash"]) == ("LookupError", StatusCode.ERROR)
    assert "private" not in "".join(span.to_json() for span in found.values())


async def test_the_span_of_a_command_that_times_out_has_the_error(spans: Spans) -> None:
    async with run_service(make_settings(handler_timeout_s=0.1), commands=router) as live:
        client = await live.connect()
        assert (await client.ask(type="hang"))["code"] == "unavailable"
        await wait_until(lambda: "hang" in spans())
    assert error_of(spans()["hang"]) == ("CancelledError", StatusCode.ERROR)


def error_of(span: ReadableSpan) -> tuple[object, StatusCode]:
    return (span.attributes or {}).get("error.type"), span.status.status_code


async def test_requests_have_spans_by_route_and_probes_have_none(live: Live, spans: Spans) -> None:
    await live.get("/livez")
    await live.post("/publish", {"data": 1})
    await wait_until(lambda: "POST /publish" in spans())
    assert not [name for name in spans() if "livez" in name or "/ws" in name]
