"""One contract for both ways out: uvicorn's own protocol class, and plain ASGI."""

import asyncio
import socket
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from app import handlers
from app.frame import frame_payload, text_frame
from app.protocol import SLOW_CONSUMER, TRY_AGAIN_LATER, Broadcast
from app.wire import Wire, asgi_wire
from app.wire_uvicorn import FrameProtocol
from dev.connect import ConnectOptions

from .client import DEADLINE_S
from .live import Live, make_settings, run_service, wait_until


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 100_000])
def test_frames_keep_their_payload(size: int) -> None:
    payload = b"x" * size
    frame = text_frame(payload)
    assert frame[0] == 0x81
    assert frame[1] < 128
    assert frame_payload(frame) == payload


@pytest.fixture(scope="module", params=[FrameProtocol, "websockets-sansio"], ids=["frames", "asgi"])
async def any_service(request: pytest.FixtureRequest) -> AsyncIterator[Live]:
    settings = make_settings(max_unsent_bytes=100_000, close_timeout_s=0.2)
    async with run_service(settings, ws=request.param) as live:
        yield live


@pytest.mark.parametrize("size", [0, 100, 126, 1_000, 60_000])
async def test_messages_of_all_sizes_arrive(any_service: Live, size: int) -> None:
    client = await any_service.connect("alice")
    data = "ü" + "x" * size
    await client.send(type="send", to=client.user, data=data)
    assert (await client.receive("message"))["data"] == data
    await client.close()


async def test_a_close_comes_after_all_that_was_sent(any_service: Live) -> None:
    client = await any_service.connect("alice")
    (connection,) = any_service.service.manager
    for number in range(3):
        any_service.service.manager.send_to_connection(connection.id, number)
    connection.close(TRY_AGAIN_LATER)
    assert await client.closed() == TRY_AGAIN_LATER
    assert [(await client.receive("message"))["data"] for _ in range(3)] == [0, 1, 2]
    await wait_until(lambda: len(any_service.service.manager) == 0)


async def test_a_stuck_reader_is_cut_off_and_others_go_on(any_service: Live) -> None:
    reader = await any_service.connect("alice")
    with await stuck_handshake(await any_service.options("bob")):
        manager = any_service.service.manager
        await wait_until(lambda: len(manager) == 2)
        stuck = list(manager)[-1]
        async with asyncio.timeout(DEADLINE_S):
            while stuck.closed is None:
                assert manager.send_to_connection(stuck.id, "x" * 60_000)
                await asyncio.sleep(0)
        assert stuck.closed == SLOW_CONSUMER
        await wait_until(lambda: len(manager) == 1)
        assert (await reader.ask(type="ping"))["type"] == "pong"
    await reader.close()
    await wait_until(lambda: len(manager) == 0)


@pytest.mark.parametrize(
    "frame",
    [b"\x88\x82" + bytes(4) + b"\x03\xe8", b"\x81\x81" + bytes(4) + b"\xff"],
    ids=["close", "bad UTF-8"],
)
async def test_a_peer_that_ends_the_connection_and_stays_is_cut_off(frame: bytes) -> None:
    async with run_service(make_settings(close_timeout_s=0.2)) as live:
        with await stuck_handshake(await live.options("bob")) as peer:
            await wait_until(lambda: len(live.service.manager) == 1)
            (protocol,) = live.server.server_state.connections
            assert isinstance(protocol, FrameProtocol)
            protocol.write([b"x" * 8_000_000])  # more than the system takes
            await asyncio.get_running_loop().sock_sendall(peer, frame)
            await wait_until(lambda: len(live.service.manager) == 0)
            assert protocol.unsent_bytes()
            await wait_until(lambda: not live.server.server_state.connections)


async def test_a_peer_that_answers_no_ping_and_takes_no_close_is_cut_off() -> None:
    settings = make_settings(ws_ping_interval_s=0.1, ws_ping_timeout_s=0.1, close_timeout_s=0.2)
    async with run_service(settings) as live:
        with await stuck_handshake(await live.options("bob")):
            await wait_until(lambda: len(live.service.manager) == 1)
            (protocol,) = live.server.server_state.connections
            assert isinstance(protocol, FrameProtocol)
            protocol.write([b"x" * 8_000_000])
            await wait_until(lambda: len(live.service.manager) == 0)


async def test_a_client_hears_why_although_the_service_had_stopped_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = asyncio.Event()

    async def block(*_: object) -> None:
        await busy.wait()

    monkeypatch.setattr(handlers.router, "handlers", {Broadcast: block})
    async with run_service(make_settings(close_timeout_s=60)) as live:
        client = await live.connect()
        (connection,) = live.service.manager
        (protocol,) = live.server.server_state.connections
        assert isinstance(protocol, FrameProtocol)
        async with asyncio.timeout(DEADLINE_S):
            while not protocol.read_paused:
                await client.send(type="broadcast", data=1)
                await asyncio.sleep(0)
        connection.close(TRY_AGAIN_LATER)
        assert await client.closed() == TRY_AGAIN_LATER
        await wait_until(lambda: not live.server.server_state.connections)
        busy.set()


async def test_the_servers_shutdown_waits_for_a_closing_handshake() -> None:
    async with run_service(make_settings(close_timeout_s=0.2)) as live:
        with await stuck_handshake(await live.options("bob")):
            await wait_until(lambda: len(live.service.manager) == 1)
            (connection,) = live.service.manager
            (protocol,) = live.server.server_state.connections
            connection.close(TRY_AGAIN_LATER)
            protocol.shutdown()
            assert not protocol.transport.is_closing()
            await wait_until(lambda: not live.server.server_state.connections)


async def test_nothing_is_compressed(live: Live) -> None:
    options = await live.options()
    async with connect(
        options.uri, additional_headers=options.headers, compression="deflate", proxy=None
    ) as client:
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers


async def test_plain_asgi_needs_no_server_that_tells_of_the_end() -> None:
    wires: list[Wire] = []

    async def send(event: MutableMapping[str, Any]) -> None:
        """Take everything."""

    async def receive() -> MutableMapping[str, Any]:
        """Tell of the beginning, and then of nothing."""
        if not wires:
            return {"type": "websocket.connect"}
        await asyncio.Event().wait()
        return {}

    async with asyncio.timeout(DEADLINE_S):
        websocket = WebSocket({"type": "websocket"}, receive, send)
        await websocket.accept()
        async with asgi_wire(websocket, close_timeout_s=0.1) as wire:
            wires.append(wire)
            wire.close(TRY_AGAIN_LATER)
            await wire.arrival()


async def stuck_handshake(options: ConnectOptions) -> socket.socket:
    """Return a client socket that is upgraded and never read again."""
    host, _, rest = options.uri.removeprefix("ws://").partition(":")
    port, _, path = rest.partition("/")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, (host, int(port)))
    headers = {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        **options.headers,
    }
    lines = [f"GET /{path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    await loop.sock_sendall(client, "\r\n".join([*lines, "", ""]).encode())
    return client


async def test_a_connection_costs_one_task_and_a_second_without_the_extension(
    any_service: Live,
) -> None:
    before = len(asyncio.all_tasks())
    clients = [await any_service.connect("alice") for _ in range(5)]
    per_connection = 1 if any_service.server.config.ws is FrameProtocol else 2
    assert len(asyncio.all_tasks()) - before == 5 * per_connection
    for client in clients:
        await client.close()
    await wait_until(lambda: len(asyncio.all_tasks()) == before)
