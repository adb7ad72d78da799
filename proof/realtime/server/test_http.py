"""Malformed, oversized and late HTTP requests, including handshakes."""

import asyncio
import gc
import json
import logging
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import Body, Request
from structlog.testing import capture_logs
from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS

from app.realtime.errors import PROBLEM_TYPE
from app.realtime.server import http as http_uvicorn
from app.realtime.server.http import MAX_HEAD_BYTES

from ..engine import make_app
from ..live import Live, make_settings, run_app, run_service, wait_until
from ..raw_client import RawClient, handshake, masked, raw_connection

GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n"

SHORT_S = 3.0
"""A request timeout: short enough to wait for, long enough for a request on a slow machine."""


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Live]:
    """Run a service whose request timeout is longer than any test."""
    async with run_service(make_settings(handshake_timeout_s=60)) as live:
        yield live


@pytest.fixture(scope="module")
async def short_timeout_service() -> AsyncIterator[Live]:
    """Run a service with a short request timeout."""
    async with run_service(make_settings(handshake_timeout_s=SHORT_S)) as live:
        yield live


@asynccontextmanager
async def connected(live: Live, data: bytes = b"") -> AsyncIterator[RawClient]:
    """Connect and send some bytes; the service must close the connection."""
    async with raw_connection("127.0.0.1", live.port) as client:
        client.send(data)
        yield client
        await client.ended()
    await wait_until(lambda: is_empty(live))


@asynccontextmanager
async def refused(live: Live, data: bytes, status: int) -> AsyncIterator[RawClient]:
    """Connect and send a request; it must get this status, one log line and one count."""
    before = live.counts()
    with capture_logs() as lines:
        async with connected(live, data) as client:
            assert (await client.head()).startswith(f"HTTP/1.1 {status} ")
            yield client
    assert [line["status"] for line in lines if line["event"].endswith("refused")] == [status]
    ((counted, step),) = (live.counts() - before).items()
    name, labelled, *_ = counted.split()
    assert name in {"ws_requests_refused_total", "ws_handshakes_refused_total"}
    assert labelled == str(status)
    assert step == 1


def is_empty(live: Live) -> bool:
    """Return whether the server has no connection and no task."""
    state = live.server.server_state
    return not state.connections and not state.tasks


def fields(count: int, size: int) -> bytes:
    """Return header fields of this size, name and value together."""
    return b"".join(b"x-%04d: %s\r\n" % (number, b"y" * (size - 6)) for number in range(count))


def with_query(head: bytes, size: int) -> bytes:
    """Return the head of a request with a longer URL."""
    return head.replace(b" HTTP", b"?%s HTTP" % (b"q" * size), 1) + b"\r\n"


TOO_LARGE: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "a long URL": (lambda head: with_query(head, MAX_LINE_LENGTH), 414),
    "a URL of 70 kB": (lambda head: with_query(head, 70_000), 414),
    "a truncated URL": (lambda _: b"GET /ws?" + b"q" * MAX_LINE_LENGTH, 414),
    "a long field": (lambda head: head + fields(1, MAX_LINE_LENGTH + 1) + b"\r\n", 431),
    "a field of 70 kB": (lambda head: head + fields(1, 70_000) + b"\r\n", 431),
    "many fields": (lambda head: head + fields(MAX_NUM_HEADERS, 20) + b"\r\n", 431),
    "many large fields": (lambda head: head + fields(5, 8_000) + b"\r\n", 431),
    "a truncated field": (lambda head: head + fields(1, MAX_HEAD_BYTES)[:-2], 431),
    "an endless field": (lambda head: head + fields(1, 2_000_000)[:-2], 431),
}


@pytest.mark.hostile(23)
@pytest.mark.parametrize("upgrade", [True, False], ids=["handshake", "request"])
@pytest.mark.parametrize("name", TOO_LARGE)
async def test_an_oversized_request_is_refused(service: Live, name: str, *, upgrade: bool) -> None:
    enlarge, status = TOO_LARGE[name]
    head = handshake(await service.options())[:-2] if upgrade else GET
    async with refused(service, enlarge(head), status) as client:
        assert b"more than" in await client.rest()


@pytest.mark.hostile(23)
async def test_the_library_refuses_a_long_line(service: Live) -> None:
    request = handshake(await service.options(), Long="y" * (MAX_LINE_LENGTH - 4))
    async with refused(service, request, 431) as client:
        await client.rest()


async def test_the_largest_handshake_is_accepted(service: Live) -> None:
    request = handshake(await service.options())[:-2]
    request += fields(3, 8_000) + fields(100, 20) + b"\r\n"
    async with raw_connection("127.0.0.1", service.port) as client:
        client.send(request)
        await client.upgraded()
        assert (await client.text())["type"] == "welcome"
    await wait_until(lambda: is_empty(service))


MALFORMED = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "nonsense": b"hello\r\n\r\n",
    "a request to a proxy": b"CONNECT /livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a field without a name": GET + b": x\r\n\r\n",
    "two lengths": b"POST /publish HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
}


@pytest.mark.hostile(25)
@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_request_is_refused(service: Live, name: str) -> None:
    async with refused(service, MALFORMED[name], 400) as client:
        assert json.loads(await client.rest()) == {
            "type": "about:blank",
            "title": "Bad Request",
            "status": 400,
            "detail": "This is not a valid HTTP/1.1 request.",
        }


async def test_a_handshake_with_another_method_is_told_the_right_one(service: Live) -> None:
    request = handshake(await service.options()).replace(b"GET", b"POST", 1)
    async with refused(service, request, 405) as client:
        assert "is a GET request" in json.loads(await client.rest())["detail"]


async def test_a_handshake_of_http_1_0_is_refused(service: Live) -> None:
    """RFC 6455 §4.1 needs a later version."""
    request = handshake(await service.options()).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    async with refused(service, request, 400) as client:
        assert "HTTP/1.1" in json.loads(await client.rest())["detail"]


@pytest.mark.hostile(25)
@pytest.mark.parametrize(
    ("field", "status"),
    [
        ({"Content-Length": "1"}, 400),
        ({"Transfer-Encoding": "chunked"}, 400),
        ({"Sec-WebSocket-Key": "<b>short</b>"}, 400),
        ({"Sec-WebSocket-Version": "<b>12</b>"}, 426),
    ],
)
async def test_a_handshake_refused_by_the_library_is_closed_without_repeating_it(
    service: Live, field: dict[str, str], status: int
) -> None:
    request = handshake(await service.options(), **field)
    async with refused(service, request, status) as client:
        body = await client.rest()
    async with connected(service, request) as client:
        head = (await client.head()).lower()
        await client.rest()
    assert head.startswith(f"http/1.1 {status} ")
    assert f"content-type: {PROBLEM_TYPE}\r\n" in head
    assert ("\r\nsec-websocket-version: 13\r\n" in head) == (status == 426)  # RFC 6455 §4.4
    assert json.loads(body)["status"] == status
    assert "<b>" not in head + body.decode()


async def test_a_refused_origin_releases_its_socket(service: Live) -> None:
    request = handshake(await service.options(), Origin="https://evil.test")
    async with refused(service, request, 403) as client:
        await client.rest()


@pytest.mark.parametrize("path", ["/other", "/ws/", "/livez", "//ws"])
async def test_a_handshake_for_another_path_is_not_found(service: Live, path: str) -> None:
    async with refused(service, handshake(await service.options(), path=path), 404) as client:
        assert json.loads(await client.rest())["title"] == "Not Found"


@pytest.mark.parametrize("scheme", ["http", "HTTPS"])
async def test_a_url_may_have_an_origin(service: Live, scheme: str) -> None:
    """Servers accept what is meant for proxies (RFC 9112 §3.2.2)."""
    options, alive = await service.options(), b'{"status":"alive"}'
    async with raw_connection("127.0.0.1", service.port) as client:
        client.send(GET.replace(b"/livez", f"{scheme}://a:80/livez?q".encode()) + b"\r\n")
        assert (await client.head()).startswith("HTTP/1.1 200 ")
        assert await client.read(len(alive)) == alive
        client.send(handshake(options).replace(b"GET ", f"GET {scheme}://a".encode(), 1))
        await client.upgraded()
    async with raw_connection("127.0.0.1", service.port) as client:
        client.send(GET.replace(b"/livez", b"http://a?q") + b"\r\n")
        assert (await client.head()).startswith("HTTP/1.1 404 ")
    await wait_until(lambda: is_empty(service))


async def test_a_client_refused_at_capacity_releases_its_socket() -> None:
    async with run_service(make_settings(max_connections=1)) as live:
        await live.connect()
        async with raw_connection("127.0.0.1", live.port) as client:
            client.send(handshake(await live.options()))
            assert (await client.head()).startswith("HTTP/1.1 503 ")
            await client.rest()
            await wait_until(lambda: len(live.server.server_state.connections) == 1)


def post(service: Live, *fields: str) -> bytes:
    """Return the head of a request by the team's backend."""
    key = service.settings.backend_key
    assert key is not None
    lines = ["POST /publish HTTP/1.1", "Host: a", *fields]
    return "\r\n".join([*lines, f"Authorization: Bearer {key.get_secret_value()}", "", ""]).encode()


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
"""What clients send that prefer HTTP/2, Java's HttpClient by default (RFC 7540 §3.2)."""


@pytest.mark.parametrize("later", [11, 4, 0], ids=["body", "part of the body", "nothing"])
async def test_an_upgrade_to_another_protocol_is_ignored(later: int) -> None:
    """The body belongs to the request, in whatever segment it comes, and others may follow it."""
    body, alive, begun = b"GET / HTTP/", b'{"status":"alive"}', asyncio.Event()
    post = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n" + H2C + b"\r\n" + body
    app = make_app(make_settings(handshake_timeout_s=60))

    @app.post("/echo")
    async def echo(request: Request) -> str:
        begun.set()
        return (await request.body()).decode()

    async with run_app(app) as live, raw_connection("127.0.0.1", live.port) as client:
        client.send(post[: len(post) - later])
        if later:
            await begun.wait()
        client.send(post[len(post) - later :] + 2 * (GET + H2C + b"\r\n"))
        assert (await client.head()).startswith("HTTP/1.1 200 ")
        assert json.loads(await client.read(len(body) + 2)) == body.decode()
        for _ in range(2):
            assert (await client.head()).startswith("HTTP/1.1 200 ")
            assert await client.read(len(alive)) == alive
        client.send(handshake(await live.options()))
        await client.upgraded()


@pytest.mark.parametrize(
    "request_bytes",
    [
        (GET + H2C + b"\r\n").replace(b"Connection: ", b"Connection: close, "),
        (GET + H2C + b"\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["close", "HTTP/1.0"],
)
async def test_an_ignored_upgrade_may_be_the_last_request(
    service: Live, request_bytes: bytes
) -> None:
    async with connected(service, request_bytes) as client:
        assert (await client.head()).startswith("HTTP/1.1 200 ")
        assert await client.rest() == b'{"status":"alive"}'


async def test_endless_trailers_are_aborted(service: Live) -> None:
    request = post(service, "Transfer-Encoding: chunked") + b"0\r\n" + fields(100, 8_000)
    async with refused(service, request, 431) as client:
        await client.rest()


CHUNK = b"1000\r\n%s\r\n" % (b"x" * 0x1000)


@pytest.mark.parametrize(
    ("framing", "part"),
    [("Transfer-Encoding: chunked", CHUNK), ("Content-Length: 10000000", b"x" * 0x1000)],
    ids=["chunks", "one length"],
)
async def test_an_endless_body_gets_one_answer(service: Live, framing: str, part: bytes) -> None:
    """The route refuses it when it has read enough; the server ends the connection later."""
    async with connected(service, post(service, framing) + 30 * part) as client:
        assert (await client.head()).startswith("HTTP/1.1 413 ")
        client.send(30 * part)
        assert b"HTTP/1.1" not in await client.rest()


@pytest.mark.hostile(24)
async def test_a_silent_connection_is_closed(short_timeout_service: Live) -> None:
    async with connected(short_timeout_service):
        pass


TRUNCATED = [
    b"G",
    b"GET / HTTP/1.1\r\n",
    GET,
    b"\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nUpgrade: websocket",
]


@pytest.mark.hostile(24)
@pytest.mark.parametrize("request_bytes", TRUNCATED)
async def test_a_truncated_request_times_out(
    short_timeout_service: Live, request_bytes: bytes
) -> None:
    async with refused(short_timeout_service, request_bytes, 408) as client:
        assert json.loads(await client.rest())["detail"] == "The request did not arrive in time."


@pytest.mark.hostile(24)
@pytest.mark.parametrize("byte", [b"a", b"\r\n"], ids=["header", "blank lines"])
async def test_trickling_bytes_do_not_extend_the_timeout(
    short_timeout_service: Live, byte: bytes
) -> None:
    async with connected(short_timeout_service, GET if byte == b"a" else b"") as client:
        answer = asyncio.create_task(client.head())
        while not answer.done():
            client.send(byte)
            await asyncio.wait([answer], timeout=0.01)
        assert answer.result().startswith("HTTP/1.1 408 ")
        await client.rest()


async def test_a_missing_body_times_out_without_an_error(
    short_timeout_service: Live, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(
        short_timeout_service, post(short_timeout_service, "Content-Length: 9")
    ) as client:
        client.send(b"1")
        assert (await client.head()).startswith("HTTP/1.1 408 ")
        await client.rest()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def wait_for_the_handshake_timeout(live: Live) -> None:
    """Wait until a silent connection has timed out."""
    async with raw_connection("127.0.0.1", live.port) as silent:
        await silent.ended()


async def test_each_request_has_its_own_timeout(short_timeout_service: Live) -> None:
    alive = b'{"status":"alive"}'
    async with connected(short_timeout_service) as client:
        for _ in range(2):
            client.send(GET + b"\r\n")
            assert (await client.head()).startswith("HTTP/1.1 200 ")
            assert await client.read(len(alive)) == alive
            await wait_for_the_handshake_timeout(short_timeout_service)
        client.send(GET)
        assert (await client.head()).startswith("HTTP/1.1 408 ")
        await client.rest()


WORK = b"POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"
PIPELINES = {
    "an empty line": (WORK + b"1", b"\r\n"),
    "a head": (WORK + b"1", GET),
    "a head after two requests": (WORK + b"1" + WORK + b"1", GET),
    "a head in the same segment": (WORK + b"1" + GET, b""),
    "no body": (WORK + b"1", WORK),
    "no body, in the same segment": (WORK + b"1" + WORK, b""),
}
"""Requests that are answered late, and what follows them."""


async def test_a_request_that_was_answered_before_its_end_is_followed_by_a_timeout() -> None:
    app = make_app(make_settings(handshake_timeout_s=SHORT_S))
    async with run_app(app) as live, connected(live, b"POST /none HTTP/1.1\r\n") as client:
        client.send(b"Host: test\r\nContent-Length: 1\r\n\r\n")
        assert (await client.head()).startswith("HTTP/1.1 404 ")
        client.send(b"x")
        await client.rest()


@pytest.mark.hostile(24)
@pytest.mark.parametrize("name", PIPELINES)
async def test_a_truncated_request_times_out_after_the_answers_to_earlier_ones(name: str) -> None:
    """Clients may send an empty line, or more, before they have an answer (RFC 9112 §2.2, §9.3)."""
    requests, more = PIPELINES[name]
    app = make_app(make_settings(handshake_timeout_s=SHORT_S))
    begun, ends = asyncio.Queue[None](), asyncio.Queue[None]()

    @app.post("/work")
    async def work(number: Annotated[int, Body()]) -> None:
        begun.put_nowait(None)
        await ends.get()

    async with run_app(app) as live, connected(live, requests) as client:
        for _ in range(requests.count(WORK + b"1")):
            await wait_until(lambda: not begun.empty())
            begun.get_nowait()
            client.send(more)
            more = b""
            await wait_for_the_handshake_timeout(live)
            ends.put_nowait(None)
            assert (await client.head()).startswith("HTTP/1.1 200 ")
            assert await client.read(4) == b"null"
        assert (await client.head()).startswith("HTTP/1.1 408 ")
        await client.rest()


async def test_a_connection_outlives_the_handshake_timeout(short_timeout_service: Live) -> None:
    client = await short_timeout_service.connect()
    await wait_for_the_handshake_timeout(short_timeout_service)
    assert await client.is_quiet()
    await short_timeout_service.close_clients()


async def test_a_refused_client_that_stays_is_aborted(
    service: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_uvicorn, "LINGER_S", 0.05)
    async with raw_connection("127.0.0.1", service.port) as client:
        client.send(b"hello\r\n\r\n")
        await wait_until(lambda: len(service.server.server_state.connections) == 1)
        await wait_until(lambda: is_empty(service))


async def test_few_requests_wait_for_the_answers_to_earlier_ones(service: Live) -> None:
    async with connected(service, 1_000 * (GET + b"\r\n")):
        pass


async def test_a_handshake_may_follow_an_answered_request_only(service: Live) -> None:
    alive, opening = b'{"status":"alive"}', handshake(await service.options())
    async with raw_connection("127.0.0.1", service.port) as client:
        client.send(GET + b"\r\n")
        assert (await client.head()).startswith("HTTP/1.1 200 ")
        assert await client.read(len(alive)) == alive
        client.send(opening)
        await client.upgraded()
    async with raw_connection("127.0.0.1", service.port) as client:
        client.send(GET + b"\r\n" + opening)
        assert (await client.head()).startswith("HTTP/1.1 200 ")
        assert await client.read(len(alive)) == alive
        assert (await client.head()).startswith("HTTP/1.1 404 ")
    await wait_until(lambda: is_empty(service))


async def test_a_frame_in_the_segment_of_the_handshake_is_read(service: Live) -> None:
    early = masked(b'{"type": "ping", "id": "early"}')
    async with raw_connection("127.0.0.1", service.port) as client:
        client.send(handshake(await service.options()) + early)
        await client.upgraded()
        assert (await client.text())["type"] == "welcome"
        assert (await client.text())["id"] == "early"


async def test_an_upgrade_leaves_no_reference_cycles(service: Live) -> None:
    gc.disable()
    try:
        async with raw_connection("127.0.0.1", service.port) as client:
            await wait_until(lambda: len(service.server.server_state.connections) == 1)
            (protocol,) = service.server.server_state.connections
            remains: weakref.ref[Any] = weakref.ref(protocol)
            del protocol
            client.send(handshake(await service.options()))
            await client.upgraded()
            await wait_until(lambda: remains() is None)
        await wait_until(lambda: is_empty(service))
    finally:
        gc.enable()
