"""The contract of both wires: uvicorn's protocol class and plain ASGI, over TCP and TLS."""

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Callable, MutableMapping
from itertools import product
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Send
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from app.realtime.auth.identity import Identity
from app.realtime.protocol import SLOW_CONSUMER, TRY_AGAIN_LATER, Close
from app.realtime.server.websocket import FrameProtocol
from app.realtime.wire.asgi import READ_AHEAD_BYTES, Wire, connect_wire
from app.realtime.wire.frame import text_frame

from ..client import DEADLINE_S, START_S, ConnectOptions
from ..live import Live, make_settings, run_app, run_service, served, wait_until
from ..raw_client import RawClient, raw_client
from ..test_application import make_trusting
from ..tls import listen_for_tls

WIRES = {"frames": FrameProtocol, "asgi": "websockets-sansio"}
TRANSPORTS = ["tcp", "tls"]
SETTINGS = make_settings(close_timeout_s=0.1)


@pytest.fixture(scope="module", params=product(WIRES, TRANSPORTS), ids="-".join)
async def any_service(request: pytest.FixtureRequest) -> AsyncIterator[Live]:
    wire, transport = request.param
    settings = make_settings(max_unsent_bytes=330_000, close_timeout_s=2.0)
    async with run_service(settings, ws=WIRES[wire]) as live:
        if transport == "tls":
            await listen_for_tls(live)
        yield live


@pytest.fixture
async def service(any_service: Live) -> AsyncIterator[Live]:
    assert len(any_service.service.manager) == 0
    yield any_service
    await any_service.close_clients()
    await wait_until(lambda: len(any_service.service.manager) == 0)


@pytest.mark.parametrize("size", [0, 100, 126, 1_000, 60_000])
async def test_messages_of_all_sizes_arrive(service: Live, size: int) -> None:
    client = await service.connect("alice")
    data = "ü" + "x" * size
    await client.send(type="send", to=client.user, data=data)
    assert (await client.receive("message"))["data"] == data


async def test_server_messages_may_exceed_the_client_limit(service: Live) -> None:
    client = await service.connect("alice")
    data = "x" * (service.settings.max_unsent_bytes - 100)
    assert service.service.manager.send_to_connection(client.welcome["connection"], data)
    assert (await client.receive("message"))["data"] == data


async def test_thousands_of_commands_are_answered_in_order(service: Live) -> None:
    client = await service.connect("alice")
    numbers = [str(number) for number in range(3_000)]
    for number in numbers:
        await client.send(type="ping", id=number)
    assert [(await client.receive("pong"))["id"] for _ in numbers] == numbers


async def test_a_close_follows_all_sent_messages(service: Live) -> None:
    client = await service.connect("alice")
    (connection,) = service.service.manager
    for number in range(3):
        service.service.manager.send_to_connection(connection.id, number)
    connection.close(TRY_AGAIN_LATER)
    assert await client.closed() == TRY_AGAIN_LATER
    assert [(await client.receive("message"))["data"] for _ in range(3)] == [0, 1, 2]


async def test_the_clients_close_code_is_recorded(service: Live) -> None:
    client = await service.connect("alice")
    (connection,) = service.service.manager
    await client.connection.close(4_321, "enough")
    await wait_until(lambda: connection.closed is not None)
    assert connection.closed == Close(4_321, "closed by the client")


@pytest.mark.hostile(11)
async def test_binary_frames_close_with_1003(service: Live) -> None:
    client = await service.connect("alice")
    await client.connection.send(b"\x00\x01")
    assert (await client.closed())[0] == 1003


@pytest.mark.hostile(56)
async def test_a_slow_consumer_is_closed_and_others_are_not(service: Live) -> None:
    reader = await service.connect("alice")
    manager = service.service.manager
    async with raw_client(await service.options("bob"), tls=service.tls):
        await wait_until(lambda: len(manager) == 2)
        stuck = list(manager)[-1]
        wire = weakref.ref(stuck._wire)
        async with asyncio.timeout(DEADLINE_S):
            while stuck.closed is None:
                assert manager.send_to_connection(stuck.id, "x" * 60_000)
                await asyncio.sleep(0)
        assert stuck.closed == SLOW_CONSUMER
        del stuck
        await wait_until(lambda: len(manager) == 1)
        assert (await reader.ask(type="ping"))["type"] == "pong"
        await wait_until(lambda: is_gone(wire), START_S)  # a collection may take a second


async def test_unsent_bytes_are_limited(service: Live) -> None:
    manager = service.service.manager
    async with raw_client(await service.options("alice"), tls=service.tls):
        await wait_until(lambda: len(manager) == 1)
        (connection,) = manager
        wire, frame = connection._wire, text_frame(b"x" * 60_000)
        async with asyncio.timeout(DEADLINE_S):
            while not wire.unsent_bytes():
                assert wire.write([frame], 10 * len(frame)) is not None
                await asyncio.sleep(0)
        unsent_bytes = wire.unsent_bytes()
        assert wire.write([frame], unsent_bytes + len(frame) - 1) is None
        assert wire.unsent_bytes() == unsent_bytes
        assert wire.write([frame], unsent_bytes + len(frame)) is not None


def is_gone(wire: weakref.ref[Wire]) -> bool:
    """Return whether the wire is freed, after a collection: plain ASGI leaves reference cycles."""
    gc.collect()
    return wire() is None


@pytest.mark.hostile(59)
async def test_a_reset_connection_is_removed(service: Live) -> None:
    before = len(asyncio.all_tasks())
    async with raw_client(await service.options("alice"), tls=service.tls) as client:
        await wait_until(lambda: len(service.service.manager) == 1)
        client.vanish()
        await wait_until(lambda: len(service.service.manager) == 0)
    await wait_until(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_connection_has_a_fixed_number_of_tasks(
    service: Live,
) -> None:
    before = len(asyncio.all_tasks())
    clients = [await service.connect("alice") for _ in range(5)]
    per_connection = 3 if service.server.config.ws == WIRES["asgi"] else 1
    assert len(asyncio.all_tasks()) - before == 5 * per_connection
    for client in clients:
        await client.close()
    await wait_until(lambda: len(asyncio.all_tasks()) == before)


@pytest.mark.hostile(12)
@pytest.mark.parametrize("character", ["x", "é"])
async def test_a_server_without_the_limit_of_a_message_keeps_it_too(character: str) -> None:
    app = make_trusting()
    largest = app.service.settings.max_message_bytes // len(character.encode())
    async with (
        asyncio.timeout(DEADLINE_S),
        served(app) as port,
        connect(f"ws://127.0.0.1:{port}/ws?user=alice", proxy=None) as client,
    ):
        await client.recv()  # the welcome
        await client.send(character * largest)
        assert "bad_request" in str(await client.recv())
        await client.send(character * (largest + 1))
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert client.close_code == 1009
    await wait_until(lambda: b'{by="client",code="1009"} 1.0' in app.service.metrics.text())


@pytest.mark.parametrize("leave", [RawClient.vanish, RawClient.send_eof])
async def test_another_server_has_no_error_if_a_client_leaves_during_authentication(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    leave: Callable[[RawClient], None],
) -> None:
    app = make_trusting()
    authenticator, begun, goes_on = app.service.authenticator, asyncio.Event(), asyncio.Event()
    authenticate = authenticator.authenticate

    async def wait(handshake: HTTPConnection) -> Identity:
        begun.set()
        await goes_on.wait()
        return await authenticate(handshake)

    monkeypatch.setattr(authenticator, "authenticate", wait)
    async with run_app(app, ws=WIRES["asgi"]) as live:
        state = live.server.server_state
        options = ConnectOptions(f"ws://127.0.0.1:{live.port}/ws?user=alice", {})
        async with raw_client(options) as client:
            await wait_until(begun.is_set)
            assert app.service.admission._connections == 1
            leave(client)
            await wait_until(lambda: not state.connections)
            goes_on.set()
            await wait_until(lambda: not state.tasks)
            assert app.service.admission._connections == 0
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def connecting(send: Send) -> WebSocket:
    """Return a client that connects, and says nothing more."""
    events = [{"type": "websocket.connect"}]

    async def receive() -> MutableMapping[str, Any]:
        if not events:
            await asyncio.Event().wait()
        return events.pop()

    return WebSocket({"type": "websocket"}, receive, send)


async def test_plain_asgi_works_without_a_disconnect_event() -> None:
    async def send(event: MutableMapping[str, Any]) -> None:
        """Accept every event."""

    async with asyncio.timeout(DEADLINE_S):
        websocket = connecting(send)
        async with connect_wire(websocket, SETTINGS) as wire:
            await websocket.accept()
            wire.close(TRY_AGAIN_LATER)
            await wire.arrival()


@pytest.mark.parametrize("failure", [OSError(), RuntimeError()])
async def test_plain_asgi_closes_after_a_failure_without_a_disconnect_event(
    failure: Exception,
) -> None:
    async def send(event: MutableMapping[str, Any]) -> None:
        """Fail when a message is sent."""
        if event["type"] == "websocket.send":
            raise failure

    async with asyncio.timeout(DEADLINE_S):
        websocket = connecting(send)
        async with connect_wire(websocket, SETTINGS) as wire:
            await websocket.accept()
            wire.write([text_frame(b"{}")], 1_000)
            await wait_until(lambda: not wire.unsent_bytes())
            wire.close(TRY_AGAIN_LATER)


async def test_plain_asgi_reads_on_until_the_client_has_disconnected() -> None:
    """Hypercorn, for example, sends a close frame only when the app has read all messages."""
    message = {"type": "websocket.receive", "text": "x" * READ_AHEAD_BYTES}
    events = [{"type": "websocket.connect"}, message, message, {"type": "websocket.disconnect"}]

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.sleep(0)
        return events.pop(0)

    async def send(event: MutableMapping[str, Any]) -> None:
        """Accept every event."""

    async with asyncio.timeout(DEADLINE_S):
        websocket = WebSocket({"type": "websocket"}, receive, send)
        async with connect_wire(websocket, make_settings()) as wire:
            await websocket.accept()
            await wire.arrival()
            wire.close(TRY_AGAIN_LATER)
    assert not events


async def test_plain_asgi_drops_what_a_gone_client_has_not_read() -> None:
    async def send(event: MutableMapping[str, Any]) -> None:
        """Report the end when a message is sent."""
        if event["type"] == "websocket.send":
            raise OSError

    async with asyncio.timeout(DEADLINE_S):
        websocket = connecting(send)
        async with connect_wire(websocket, SETTINGS) as wire:
            await websocket.accept()
            for _ in range(3):
                wire.write([text_frame(b"x" * 1_000)], 10_000)
            assert wire.unsent_bytes() > 3_000
        assert not wire.unsent_bytes()


async def accept(event: MutableMapping[str, Any]) -> None:
    """Accept every event but messages, which wait."""
    if event["type"] == "websocket.send":
        await asyncio.Event().wait()


async def test_plain_asgi_lets_the_connection_end_after_a_peer_was_too_slow_to_leave() -> None:
    """Its observers run to their end, even if the peer is cut off before."""
    has_ended = False
    async with asyncio.timeout(DEADLINE_S):
        websocket = connecting(accept)
        async with connect_wire(websocket, SETTINGS) as wire:
            await websocket.accept()
            wire.write([text_frame(b"{}")] * 2, 1_000)
            wire.close(TRY_AGAIN_LATER)
            await asyncio.sleep(0.01)
            assert wire.unsent_bytes()
            wire.abort()
            assert not wire.unsent_bytes()
            await asyncio.sleep(0.2)  # more than the time for the peer to leave
            has_ended = True
    assert has_ended


async def test_plain_asgi_waits_no_longer_for_a_peer_that_is_cut_off() -> None:
    async with asyncio.timeout(DEADLINE_S):
        websocket = connecting(accept)
        async with connect_wire(websocket, make_settings(close_timeout_s=60)) as wire:
            await websocket.accept()
            wire.close(TRY_AGAIN_LATER)
            asyncio.get_running_loop().call_later(0.05, wire.abort)


@pytest.mark.parametrize("end", ["abort", "read"])
async def test_plain_asgi_waits_until_all_is_sent_or_dropped(end: str) -> None:
    reads = asyncio.Event()

    async def send(event: MutableMapping[str, Any]) -> None:
        """Accept messages when the client reads."""
        if event["type"] == "websocket.send":
            await reads.wait()

    async with asyncio.timeout(DEADLINE_S):
        websocket = connecting(send)
        async with connect_wire(websocket, SETTINGS) as wire:
            await websocket.accept()
            await wire.drain()
            wire.write([text_frame(b"{}")] * 2, 1_000)
            draining = asyncio.create_task(wire.drain())
            await asyncio.sleep(0.01)
            assert not draining.done()
            if end == "abort":
                wire.abort()
            else:
                reads.set()
            await draining
            assert not wire.unsent_bytes()


@pytest.mark.parametrize("content", [{"bytes": b""}, {"text": ""}])
async def test_plain_asgi_stops_reading_empty_messages_too(content: dict[str, Any]) -> None:
    received = 0

    async def receive() -> MutableMapping[str, Any]:
        nonlocal received
        received += 1
        await asyncio.sleep(0)
        return {"type": "websocket.connect" if received == 1 else "websocket.receive", **content}

    async with asyncio.timeout(DEADLINE_S):
        websocket = WebSocket({"type": "websocket"}, receive, accept)
        async with connect_wire(websocket, SETTINGS) as wire:
            await websocket.accept()
            await wait_until(lambda: wire.inbox.unread_bytes >= READ_AHEAD_BYTES)
            before = received
            for _ in range(10):
                await asyncio.sleep(0)
            assert received == before < 1_000
