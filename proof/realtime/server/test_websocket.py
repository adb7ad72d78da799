"""The wire on uvicorn, byte by byte: the engine's own frame parser and the library's."""

import asyncio
import errno
import gc
import json
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from fastapi import FastAPI
from starlette.websockets import WebSocket
from structlog.testing import capture_logs
from websockets.asyncio.client import connect

from app.realtime.commands.dispatcher import Dispatcher
from app.realtime.connections.connection import Connection
from app.realtime.protocol import SLOW_CONSUMER, TRY_AGAIN_LATER, Close
from app.realtime.server.websocket import (
    ENDED_EARLY,
    FRAMES_AT_ONCE,
    MAX_DROPPED_FRAMES,
    NO_ANSWER,
    PING_UNANSWERED,
    RESET,
    TIMED_OUT,
    UNKNOWN,
    FrameProtocol,
    cause_of,
)
from app.realtime.wire.asgi import READ_AHEAD_BYTES
from app.realtime.wire.frame import text_frame
from app.realtime.wire.inbox import MESSAGE_BYTES, Inbox

from ..client import DEADLINE_S
from ..live import Live, make_settings, run_service, wait_until
from ..raw_client import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    RawClient,
    masked,
    masked_close,
    raw_client,
)
from ..tls import listen_for_tls

MAX_BYTES = 65_536
MORE_THAN_SOCKET_BUFFERS = 8_000_000
PIECE_BYTES = 65_536


class CountingProtocol(FrameProtocol):
    """Counts the bytes received, including the handshake."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.read_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Count the bytes."""
        self.read_bytes += len(data)
        super().data_received(data)


class Peer(NamedTuple):
    """Both ends of one connection."""

    client: RawClient
    protocol: CountingProtocol
    connection: Connection

    async def send_pieces(self, *pieces: bytes) -> None:
        """Send each piece after the service has received the one before."""
        for piece in pieces:
            expected = self.protocol.read_bytes + len(piece)
            self.client.send(piece)
            async with asyncio.timeout(DEADLINE_S):
                while self.protocol.read_bytes < expected:
                    await asyncio.sleep(0)


async def receive(client: RawClient, expected: bytes) -> None:
    """Read these bytes. Each piece has a deadline, as all of them may take long."""
    for start in range(0, len(expected), PIECE_BYTES):
        piece = expected[start : start + PIECE_BYTES]
        assert await client.read(len(piece)) == piece


def only_protocol(live: Live) -> CountingProtocol:
    """Return the server's end of the only connection."""
    (protocol,) = live.server.server_state.connections
    assert isinstance(protocol, CountingProtocol)
    return protocol


@asynccontextmanager
async def welcomed_peer(live: Live) -> AsyncIterator[Peer]:
    """Connect; no connection or task may be left afterwards."""
    before = len(asyncio.all_tasks())
    async with raw_client(await live.options("alice")) as client:
        await client.upgraded()
        assert (await client.text())["type"] == "welcome"
        (connection,) = live.service.manager
        yield Peer(client, only_protocol(live), connection)
    await wait_until(lambda: is_empty(live))
    await wait_until(lambda: len(asyncio.all_tasks()) <= before)


def is_empty(live: Live) -> bool:
    """Return whether neither the service nor the server has a connection."""
    return len(live.service.manager) == 0 and not live.server.server_state.connections


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Live]:
    """Run a service whose close timeout is longer than any test may take."""
    settings = make_settings(max_message_bytes=MAX_BYTES, close_timeout_s=60)
    async with run_service(settings, ws=CountingProtocol) as live:
        yield live


@pytest.fixture(scope="module")
async def strict_service() -> AsyncIterator[Live]:
    """Run a service with a short close timeout and low limits."""
    settings = make_settings(max_message_bytes=1_000, max_unsent_bytes=300_000, close_timeout_s=0.1)
    async with run_service(settings, ws=CountingProtocol) as live:
        yield live


@pytest.fixture
async def peer(service: Live) -> AsyncIterator[Peer]:
    async with welcomed_peer(service) as peer:
        yield peer


@pytest.fixture
async def strict_peer(strict_service: Live) -> AsyncIterator[Peer]:
    async with welcomed_peer(strict_service) as peer:
        yield peer


def ping(number: object, size: int = 0) -> bytes:
    """Return a ping command with this id, padded to a size."""
    return json.dumps({"type": "ping", "id": str(number)}, ensure_ascii=False).encode().ljust(size)


def fragments(payload: bytes, *cuts: int) -> list[bytes]:
    """Return the frames of one text message, split at these offsets."""
    starts, ends = (0, *cuts), (*cuts, len(payload))
    return [
        masked(payload[start:end], CONT if start or at else TEXT, fin=at == len(cuts))
        for at, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def legal_stream() -> bytes:
    """Return frames of every kind; `read_all` reads the answers."""
    one, two, three = fragments(ping("in three"), 5, 9)
    return b"".join(
        [
            masked(ping(1)),
            masked(ping("126 bytes", 126)),
            masked(b"", PING),
            one,
            masked(b"inside", PING),
            two,
            three,
            *fragments(ping("empty"), 9, 9),
            masked(b"", PONG),
            *fragments(ping("ü"), ping("ü").index(0xC3) + 1),
            masked(b" " + ping(2) + b"\n"),
            masked(ping(3)),
            masked(ping(4)),
            DISGUISED_PING,
            DISGUISED_TEXT,
            masked(b"unasked", PONG),
            masked(ping("last")),
        ]
    )


# After its header, or its mask, each looks like a text message.
DISGUISED_PING = masked(masked(ping("hidden"), mask=bytes(4)), PING, mask=bytes(4))
DISGUISED_TEXT = masked(b" " * 8 + ping("disguised"), mask=b"\xa1\xa0\x00\x00")

ANSWERED = ["1", "126 bytes", "in three", "empty", "ü", "2", "3", "4", "disguised", "last"]
PONGS = [b"", b"inside", DISGUISED_PING[6:]]


async def read_all(client: RawClient) -> None:
    """Read the answers to a legal stream; pong frames may overtake texts."""
    ids: list[str] = []
    pongs: list[bytes] = []
    while len(ids) < len(ANSWERED) or len(pongs) < len(PONGS):
        opcode, payload = await client.frame()
        if opcode == PONG:
            pongs.append(payload)
        else:
            assert opcode == TEXT
            ids.append(json.loads(payload)["id"])
    assert ids == ANSWERED
    assert pongs == PONGS


async def assert_quiet(client: RawClient) -> None:
    """Assert that no frame is left unread."""
    client.send(masked(ping("quiet")))
    assert (await client.text())["id"] == "quiet"


@pytest.mark.hostile(20)
async def test_frames_in_one_piece_are_all_answered(peer: Peer) -> None:
    peer.client.send(legal_stream())
    await read_all(peer.client)
    await assert_quiet(peer.client)


@pytest.mark.hostile(21)
async def test_frames_may_be_split_anywhere(peer: Peer) -> None:
    stream = legal_stream()
    for cut in range(1, len(stream)):
        await peer.send_pieces(stream[:cut], stream[cut:])
        await read_all(peer.client)
    await assert_quiet(peer.client)


@pytest.mark.hostile(21)
async def test_frames_may_arrive_byte_by_byte(peer: Peer) -> None:
    stream = legal_stream()
    await peer.send_pieces(*(stream[at : at + 1] for at in range(len(stream))))
    await read_all(peer.client)
    await assert_quiet(peer.client)


@pytest.mark.parametrize("size", [127, 1_000, 65_535, MAX_BYTES])
async def test_large_frames_may_be_split_near_their_headers(peer: Peer, size: int) -> None:
    frame = masked(ping("large", size))
    stream = frame + masked(ping("small"))
    near = [*range(1, 16), *range(len(frame) - 2, len(frame) + 8)]
    for cut in near:
        await peer.send_pieces(stream[:cut], stream[cut:])
        assert [(await peer.client.text())["id"] for _ in range(2)] == ["large", "small"]
    await assert_quiet(peer.client)


async def test_a_non_minimal_length_is_accepted(peer: Peer) -> None:
    payload = ping("long")
    frame = b"\x81\xff" + len(payload).to_bytes(8) + bytes(4) + payload
    stream = frame + masked(ping("after"))
    for cut in range(1, len(stream)):
        await peer.send_pieces(stream[:cut], stream[cut:])
        assert [(await peer.client.text())["id"] for _ in range(2)] == ["long", "after"]


FRAGMENT = masked(b'{"type"', fin=False)

ILLEGAL: dict[str, tuple[bytes | list[bytes], int]] = {
    "unmasked": (b"\x81\x0f" + ping(1)[:15], 1002),
    "RSV1": (masked(ping(1), reserved=4), 1002),
    "RSV2": (masked(ping(1), reserved=2), 1002),
    "RSV3": (masked(ping(1), reserved=1), 1002),
    **{f"opcode {code}": (masked(b"", code), 1002) for code in (3, 4, 5, 6, 7)},
    **{f"opcode {code}": (masked(b"", code), 1002) for code in (11, 12, 13, 14, 15)},
    "text inside a message": ([FRAGMENT, masked(ping(1))], 1002),
    "binary inside a message": ([FRAGMENT, masked(b"", BINARY)], 1002),
    "continuation of nothing": (masked(ping(1), CONT), 1002),
    "fragment of nothing": (masked(ping(1), CONT, fin=False), 1002),
    "fragmented ping": (masked(b"", PING, fin=False), 1002),
    "fragmented pong": (masked(b"", PONG, fin=False), 1002),
    "fragmented close": (masked(b"", CLOSE, fin=False), 1002),
    "ping of 126 bytes": (masked(b"x" * 126, PING), 1002),
    "pong of 126 bytes": (masked(b"x" * 126, PONG), 1002),
    "close of 126 bytes": (masked(b"\x03\xe8" + b"x" * 124, CLOSE), 1002),
    "no UTF-8": (masked(b"\xff"), 1007),
    "cut UTF-8": (masked("ü".encode()[:1]), 1007),
    "surrogate": (masked(b"\xed\xa0\x80"), 1007),
    "overlong UTF-8": (masked(b"\xc0\xaf"), 1007),
    "no UTF-8 across fragments": (fragments(b"\xc3x", 1), 1007),
    "no UTF-8 before an empty end": (fragments(b"\xc3", 1), 1007),
    "too large": (masked(b"x" * 1_001), 1009),
    "too large for 16 bits": (masked(b"x" * MAX_BYTES)[:14], 1009),
    "endless": (b"\x81\xff\x7f" + b"\xff" * 7, 1009),
    "too large with its fragments": (fragments(b"x" * 1_001, 500, 999), 1009),
    "close of one byte": (masked(b"\x03", CLOSE), 1002),
    **{f"close with {code}": (masked_close(code), 1002) for code in (0, 999, 1004, 1005, 1006)},
    **{f"close with {code}": (masked_close(code), 1002) for code in (1015, 2999, 5000, 65_535)},
    "close without UTF-8": (masked(b"\x03\xe8\xff", CLOSE), 1007),
}


@pytest.mark.hostile(10, 12, 13, 14, 16, 17, 18, 19)
@pytest.mark.parametrize("name", ILLEGAL)
async def test_an_illegal_frame_ends_the_connection(strict_service: Live, name: str) -> None:
    frames, code = ILLEGAL[name]
    if isinstance(frames, bytes):
        middle = len(frames) // 2
        frames = [frames[:middle], frames[middle:]]
    whole = b"".join(frames)
    for *before, last in ([whole], [masked(ping(1)) + whole], frames):
        counts = strict_service.counts()
        with capture_logs() as lines:
            async with welcomed_peer(strict_service) as peer:
                await peer.send_pieces(*before)
                peer.client.send(last)
                assert await peer.client.close_code() == code
                await peer.client.ended()
                await wait_until(lambda: is_empty(strict_service))
        codes = [repr(line.get("code")) for line in lines if line["event"] != "request"]
        assert codes == ["None", str(code)]
        steps = strict_service.counts() - counts
        assert {step for step in steps if "closed" in step} == {
            f"ws_connections_closed_total client {code}"
        }


async def test_a_text_before_an_illegal_frame_is_still_handled(
    strict_peer: Peer, handled: list[str]
) -> None:
    strict_peer.client.send(masked(ping(1)) + masked(b"", 3))
    assert await strict_peer.client.close_code() == 1002
    await wait_until(lambda: strict_peer.connection.closed is not None)
    assert handled == [ping(1).decode()]


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that records all handled texts."""
    texts = []
    dispatch = Dispatcher.dispatch

    async def note(dispatcher: Dispatcher, service: Any, connection: Connection, text: str) -> Any:
        texts.append(text)
        return await dispatch(dispatcher, service, connection, text)

    monkeypatch.setattr(Dispatcher, "dispatch", note)
    return texts


@pytest.fixture
async def loop_errors() -> AsyncIterator[list[dict[str, Any]]]:
    """Return a list that records the loop's unhandled exceptions."""
    errors: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    yield errors
    loop.set_exception_handler(None)


async def test_bad_text_and_a_close_in_one_piece_end_the_connection(
    strict_peer: Peer, loop_errors: list[dict[str, Any]]
) -> None:
    strict_peer.client.send(masked(b"\xff") + masked_close(1000))
    code = await strict_peer.client.close_code()
    assert code in {1000, 1007}
    await strict_peer.client.ended()
    assert not loop_errors


@pytest.fixture
async def answer(
    strict_service: Live, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[asyncio.Event]:
    """Delay handshake responses until this event is set."""
    event = asyncio.Event()
    kind = type(strict_service.service.authenticator)
    authenticate = kind.authenticate

    async def wait(authenticator: Any, websocket: WebSocket) -> Any:
        await event.wait()
        return await authenticate(authenticator, websocket)

    monkeypatch.setattr(kind, "authenticate", wait)
    yield event
    event.set()
    await wait_until(lambda: is_empty(strict_service))


@asynccontextmanager
async def early_client(live: Live, data: bytes) -> AsyncIterator[RawClient]:
    """Connect, and send some data that is received before the handshake response."""
    async with raw_client(await live.options("alice")) as client:
        await wait_until(lambda: bool(live.server.server_state.tasks))
        protocol = only_protocol(live)
        expected = protocol.read_bytes + len(data)
        client.send(data)
        await wait_until(lambda: protocol.read_bytes == expected or protocol.disconnected)
        yield client


async def test_a_text_before_the_handshake_response_is_handled_after_it(
    strict_service: Live, answer: asyncio.Event
) -> None:
    first = masked(ping("first"))
    for cut in (1, 3, 10, len(first)):
        answer.clear()
        async with early_client(strict_service, first[:cut]) as client:
            answer.set()
            await client.upgraded()
            client.send(first[cut:] + masked(ping("second")))
            types = [await client.text() for _ in range(3)]
            assert [text.get("id") for text in types] == [None, "first", "second"]
        await wait_until(lambda: is_empty(strict_service))


async def test_a_ping_before_the_handshake_response_is_answered_after_it(
    strict_service: Live, answer: asyncio.Event
) -> None:
    async with early_client(strict_service, masked(b"early", PING)) as client:
        answer.set()
        await client.upgraded()


async def test_many_frames_before_the_handshake_response_end_the_connection(
    strict_service: Live, answer: asyncio.Event
) -> None:
    async with early_client(strict_service, FRAMES_AT_ONCE * masked(b"", PING)) as client:
        answer.set()
        await client.upgraded()
        await client.ended()


@pytest.mark.parametrize(
    "frame",
    [b"\x81\x00", masked(b"\xff"), masked_close(1000)],
    ids=["unmasked", "no UTF-8", "close"],
)
async def test_a_bad_frame_before_the_handshake_response_ends_the_connection(
    strict_service: Live,
    answer: asyncio.Event,
    frame: bytes,
    loop_errors: list[dict[str, Any]],
) -> None:
    async with early_client(strict_service, frame):
        answer.set()
        await wait_until(lambda: is_empty(strict_service))
        assert not loop_errors


async def test_excess_input_before_the_handshake_response_ends_the_connection(
    strict_service: Live, answer: asyncio.Event
) -> None:
    async with early_client(strict_service, masked(b"x" * 1_001)):
        assert not answer.is_set()
        await wait_until(lambda: not strict_service.server.server_state.connections)


@pytest.mark.hostile(22)
async def test_frames_after_the_services_close_are_ignored(peer: Peer, handled: list[str]) -> None:
    peer.connection.close(TRY_AGAIN_LATER)
    peer.protocol.write([text_frame(b"late")], sys.maxsize)
    await peer.send_pieces(masked(ping(1)) + masked(ping(2))[:-1])
    await peer.send_pieces(masked(ping(2))[-1:] + b"".join(fragments(ping(3), 4)))
    peer.client.send(masked_close(TRY_AGAIN_LATER.code))
    assert await peer.client.close_code() == TRY_AGAIN_LATER.code
    await peer.client.ended()
    assert handled == []


@pytest.mark.parametrize("reason", ["", "enough"])
async def test_the_clients_close_is_echoed(peer: Peer, reason: str) -> None:
    peer.client.send(masked_close(4_321, reason))
    assert await peer.client.frame() == (CLOSE, (4_321).to_bytes(2) + reason.encode())
    await peer.client.ended()
    assert peer.connection.closed == Close(4_321, "closed by the client")


async def test_a_close_without_a_code_is_echoed(peer: Peer) -> None:
    peer.client.send(masked(b"", CLOSE))
    assert await peer.client.frame() == (CLOSE, b"")
    await peer.client.ended()
    assert peer.connection.closed == Close(1005, "closed by the client")


@pytest.mark.hostile(22)
async def test_frames_after_the_clients_close_are_ignored(peer: Peer, handled: list[str]) -> None:
    peer.client.send(masked(ping(1)) + masked_close(1000) + masked(ping(2)) + masked(b"", PING))
    assert await peer.client.frame() == (CLOSE, (1000).to_bytes(2))
    await peer.client.ended()
    assert handled == [ping(1).decode()]


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Event]:
    """Block the first command until this event is set."""
    event = asyncio.Event()
    dispatch = Dispatcher.dispatch

    async def wait(dispatcher: Dispatcher, service: Any, connection: Connection, text: str) -> Any:
        await event.wait()
        return await dispatch(dispatcher, service, connection, text)

    monkeypatch.setattr(Dispatcher, "dispatch", wait)
    yield event
    event.set()


@pytest.mark.hostile(55)
async def test_reading_pauses_while_the_service_is_busy_and_resumes(
    peer: Peer, ready: asyncio.Event
) -> None:
    ready.set()
    await peer.send_pieces(legal_stream())
    await read_all(peer.client)
    ready.clear()
    numbers = [str(number) for number in range(200)]
    await peer.send_pieces(masked(ping(numbers[0], READ_AHEAD_BYTES // 2)))
    assert not peer.protocol.read_paused
    # The first message, which is being handled, counts as well.
    await peer.send_pieces(masked(ping(numbers[1], READ_AHEAD_BYTES // 2)))
    assert peer.protocol.read_paused
    read_bytes = peer.protocol.read_bytes
    for number in numbers[2:]:
        peer.client.send(masked(ping(number)))
        await asyncio.sleep(0)
    assert peer.protocol.read_bytes == read_bytes
    now = asyncio.get_running_loop().time()
    assert peer.protocol.heard_at >= now  # so the heartbeat does not take it for dead
    ready.set()
    assert [(await peer.client.text())["id"] for _ in numbers] == numbers
    assert not peer.protocol.read_paused


async def pause_reading(peer: Peer) -> None:
    """Send more than is read ahead, while the service is busy."""
    for number in range(2):
        await peer.send_pieces(masked(ping(number, READ_AHEAD_BYTES // 2)))
    assert peer.protocol.read_paused


async def test_a_client_gets_the_close_code_while_reading_is_paused(
    peer: Peer, ready: asyncio.Event
) -> None:
    await pause_reading(peer)
    peer.client.send(masked(ping("unread")))
    peer.connection.close(TRY_AGAIN_LATER)
    assert await peer.client.close_code() == TRY_AGAIN_LATER.code
    peer.client.send(masked_close(TRY_AGAIN_LATER.code))
    await peer.client.ended()


async def test_the_answer_to_a_ping_may_be_unread_while_reading_is_paused(
    peer: Peer, ready: asyncio.Event
) -> None:
    await pause_reading(peer)
    peer.protocol.keepalive_timeout()
    assert peer.connection.closed is None
    ready.set()
    assert [(await peer.client.text())["id"] for _ in range(2)] == ["0", "1"]
    assert not peer.protocol.read_paused
    peer.protocol.keepalive_timeout()
    assert await peer.client.close_code() == PING_UNANSWERED.code


@pytest.mark.parametrize("end", [RawClient.send_eof, RawClient.vanish])
async def test_a_peer_that_leaves_while_reading_is_paused_is_noticed(
    service: Live, peer: Peer, ready: asyncio.Event, end: Callable[[RawClient], None]
) -> None:
    await pause_reading(peer)
    peer.client.send(masked(ping("unread")))
    end(peer.client)
    await wait_until(lambda: is_empty(service))
    assert not ready.is_set()


LAST_FRAMES = pytest.mark.parametrize(
    "frame", [masked_close(1000), masked(b"\xff")], ids=["close", "no UTF-8"]
)


@LAST_FRAMES
async def test_a_peer_that_stays_after_its_close_is_no_client(
    service: Live, peer: Peer, frame: bytes
) -> None:
    peer.protocol.write([b"x" * MORE_THAN_SOCKET_BUFFERS], sys.maxsize)
    peer.client.send(frame)
    await wait_until(lambda: len(service.service.manager) == 0)
    assert peer.protocol.unsent_bytes()


@LAST_FRAMES
async def test_a_peer_that_stays_after_its_close_is_aborted(
    strict_service: Live, strict_peer: Peer, frame: bytes
) -> None:
    strict_peer.protocol.write([b"x" * MORE_THAN_SOCKET_BUFFERS], sys.maxsize)
    strict_peer.client.send(frame)
    await wait_until(lambda: is_empty(strict_service))


async def test_a_peer_that_stays_after_eof_is_aborted(
    strict_service: Live, strict_peer: Peer
) -> None:
    strict_peer.protocol.write([b"x" * MORE_THAN_SOCKET_BUFFERS], sys.maxsize)
    strict_peer.client.send_eof()
    await wait_until(lambda: is_empty(strict_service))


@pytest.mark.hostile(56)
async def test_a_peer_that_answers_the_close_without_reading_is_aborted(
    strict_service: Live, strict_peer: Peer
) -> None:
    strict_peer.protocol.write([b"x" * MORE_THAN_SOCKET_BUFFERS], sys.maxsize)
    strict_peer.connection.close(SLOW_CONSUMER)
    await wait_until(lambda: len(strict_service.service.manager) == 0)
    await wait_until(lambda: not strict_service.server.server_state.tasks)
    strict_peer.client.send(masked_close(SLOW_CONSUMER.code))
    await wait_until(lambda: is_empty(strict_service))


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "service"])
async def test_a_stuck_peer_is_aborted_while_the_service_is_busy(
    strict_service: Live,
    strict_peer: Peer,
    ready: asyncio.Event,
    handled: list[str],
    *,
    by_client: bool,
) -> None:
    strict_peer.client.send(masked(ping(1)))
    await wait_until(lambda: len(handled) == 1)
    strict_peer.protocol.write([b"x" * MORE_THAN_SOCKET_BUFFERS], sys.maxsize)
    if by_client:
        strict_peer.client.send(masked_close(1000))
    else:
        strict_peer.connection.close(SLOW_CONSUMER)
    await wait_until(lambda: not strict_service.server.server_state.connections)
    assert not ready.is_set()
    ready.set()


EXCESS = masked(b"x" * 1_000) * 3_000


@pytest.mark.hostile(22)
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("name", ["no UTF-8", "too large", "opcode 3", "binary", "flood"])
async def test_unread_input_does_not_cost_the_close_code(*, name: str, tls: bool) -> None:
    settings = make_settings(max_message_bytes=1_000, close_timeout_s=60, max_messages_per_s=1)
    async with run_service(settings) as live:
        if tls:
            await listen_for_tls(live)
        frames, code = ILLEGAL.get(name, (b"", 0))
        assert isinstance(frames, bytes)
        if name == "binary":
            frames, code = masked(b"x", BINARY), 1003
        elif name == "flood":
            frames, code = masked(ping(1)) * 20, 4013
        for _ in range(20):
            async with raw_client(await live.options(), tls=live.tls) as client:
                await client.upgraded()
                client.send(frames + EXCESS)
                assert await client.close_code() == code
                client.send(masked_close(code))
                await client.ended()
            await wait_until(lambda: is_empty(live))


@pytest.mark.hostile(22, 56)
async def test_input_after_the_services_close_is_not_buffered(peer: Peer) -> None:
    peer.connection.close(TRY_AGAIN_LATER)
    owed = peer.protocol.unsent_bytes()
    waiting = len(peer.protocol.inbox.messages)
    unfinished = masked(b"x" * MAX_BYTES, fin=False)
    for frames in (masked(b"x" * 125, PING) * 500, masked(ping(1)) * 500, unfinished * 10):
        await peer.send_pieces(frames)
    assert peer.protocol.unsent_bytes() == owed
    assert len(peer.protocol.inbox.messages) <= waiting
    assert not peer.protocol.conn.reader.buffer
    assert not peer.protocol.frames
    assert await peer.client.close_code() == TRY_AGAIN_LATER.code


async def test_a_flood_of_frames_after_the_services_close_is_cut_off(
    service: Live, peer: Peer
) -> None:
    peer.connection.close(TRY_AGAIN_LATER)
    peer.client.send(masked(b"", PING) * (MAX_DROPPED_FRAMES + FRAMES_AT_ONCE))
    await wait_until(lambda: is_empty(service))


async def test_input_after_a_clients_close_does_not_cost_the_echo(peer: Peer) -> None:
    peer.client.send(masked_close(4_321) + EXCESS)
    assert await peer.client.frame() == (CLOSE, (4_321).to_bytes(2))
    await peer.client.ended()


async def end_of(live: Live, end: Callable[[RawClient], Awaitable[None]]) -> dict[str, Any]:
    """Connect, end the connection with ``end``, and return the logged code and reason."""
    with capture_logs() as lines:
        async with raw_client(await live.options("alice")) as client:
            await client.upgraded()
            await client.text()
            await end(client)
            await wait_until(lambda: is_empty(live))
    (line,) = [line for line in lines if line["event"] == "connection closed"]
    return {name: line[name] for name in ("code", "reason")}


async def test_the_log_tells_how_a_connection_ended(strict_service: Live) -> None:
    async def reset(client: RawClient) -> None:
        client.vanish()

    async def end(client: RawClient) -> None:
        client.send_eof()

    async def close_without_a_code(client: RawClient) -> None:
        client.send(masked(b"", CLOSE))

    async def close_in_words(client: RawClient) -> None:
        client.send(masked_close(4_321, "my password is"))

    counts = strict_service.counts()
    assert await end_of(strict_service, reset) == {"code": 1006, "reason": RESET}
    assert await end_of(strict_service, end) == {"code": 1006, "reason": ENDED_EARLY}
    by_client = "closed by the client"
    assert await end_of(strict_service, close_without_a_code) == {"code": 1005, "reason": by_client}
    assert await end_of(strict_service, close_in_words) == {"code": 4_321, "reason": by_client}
    steps = strict_service.counts() - counts
    assert steps["ws_connections_closed_total client 1006"] == 2
    assert steps["ws_connections_closed_total client 1005"] == 1


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (ConnectionResetError(), RESET),
        (BrokenPipeError(), RESET),
        (OSError(errno.ETIMEDOUT, "Connection timed out"), TIMED_OUT),
        (OSError(errno.EHOSTUNREACH, "No route to host"), UNKNOWN),
        (None, UNKNOWN),
    ],
)
def test_each_failure_has_its_cause(failure: Exception | None, cause: str) -> None:
    assert cause_of(failure) == cause


async def test_the_latest_ping_of_a_slow_peer_is_answered_when_it_reads(peer: Peer) -> None:
    text = text_frame(b"x" * MORE_THAN_SOCKET_BUFFERS)
    peer.protocol.write([text], sys.maxsize)
    await peer.send_pieces(masked(b"first", PING) + masked(b"latest", PING))
    await receive(peer.client, text)
    assert await peer.client.frame() == (PONG, b"latest")


async def test_a_slow_peers_close_behind_a_ping_is_echoed(peer: Peer) -> None:
    text = text_frame(b"x" * MORE_THAN_SOCKET_BUFFERS)
    peer.protocol.write([text], sys.maxsize)
    await peer.send_pieces(masked(b"", PING) + masked_close(1000))
    await receive(peer.client, text)
    assert await peer.client.close_code() == 1000
    await peer.client.ended()


@pytest.mark.hostile(56)
async def test_unread_pongs_do_not_accumulate(strict_peer: Peer) -> None:
    pings = masked(b"x" * 125, PING) * 500
    limit = 1_000_000
    sent = 0
    while sent < 5 * limit and strict_peer.connection.closed is None:
        await strict_peer.send_pieces(pings)
        sent += len(pings)
    assert strict_peer.protocol.unsent_bytes() < limit


@pytest.mark.hostile(57)
async def test_a_peer_that_ignores_ping_and_close_is_aborted() -> None:
    settings = make_settings(ws_ping_interval_s=2.0, ws_ping_timeout_s=1.0, close_timeout_s=0.1)
    async with run_service(settings, ws=CountingProtocol) as live, welcomed_peer(live) as peer:
        peer.protocol.write([b"x" * MORE_THAN_SOCKET_BUFFERS], sys.maxsize)
        await wait_until(lambda: is_empty(live))
        assert peer.connection.closed == Close(1006, NO_ANSWER)


async def test_the_servers_shutdown_waits_for_a_closing_handshake(
    strict_service: Live, strict_peer: Peer
) -> None:
    strict_peer.connection.close(TRY_AGAIN_LATER)
    strict_peer.protocol.shutdown()
    assert not strict_peer.protocol.transport.is_closing()
    await wait_until(lambda: is_empty(strict_service))


@pytest.mark.hostile(15)
async def test_nothing_is_compressed(service: Live) -> None:
    options = await service.options()
    async with connect(
        options.uri, additional_headers=options.headers, compression="deflate", proxy=None
    ) as client:
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers
    await wait_until(lambda: is_empty(service))


@pytest.mark.parametrize("end", ["closed", "cut off", "reset", "illegal"])
async def test_an_ended_connection_leaves_no_reference_cycles(
    strict_service: Live, end: str
) -> None:
    gc.disable()
    try:
        async with raw_client(await strict_service.options("alice")) as client:
            await client.upgraded()
            protocol = only_protocol(strict_service)
            remains: list[weakref.ref[Any]] = [weakref.ref(protocol), weakref.ref(protocol.conn)]
            del protocol
            if end == "closed":
                client.send(masked_close(1000))
            elif end == "cut off":
                (connection,) = strict_service.service.manager
                connection.close(TRY_AGAIN_LATER)
                del connection
            elif end == "reset":
                client.vanish()
            else:
                client.send(masked(b"", 3))
            await wait_until(lambda: is_empty(strict_service))
            await wait_until(lambda: not any(remaining() for remaining in remains))
    finally:
        gc.enable()


ROUTE = "/other"


@asynccontextmanager
async def other_route(live: Live, route: Any) -> AsyncIterator[RawClient]:
    """Connect to a WebSocket route of the team."""
    app = live.server.config.app
    assert isinstance(app, FastAPI)
    routes = list(app.router.routes)
    app.websocket(ROUTE)(route)
    try:
        async with raw_client(await live.options("alice"), path=ROUTE) as client:
            yield client
        await wait_until(lambda: is_empty(live))
    finally:
        app.router.routes[:] = routes


async def test_other_routes_may_refuse_a_handshake(strict_service: Live) -> None:
    async def refuse(websocket: WebSocket) -> None:
        await websocket.close()

    async with other_route(strict_service, refuse) as client:
        assert (await client.head()).startswith("HTTP/1.1 403 ")
        assert json.loads(await client.rest())["detail"] == "Forbidden"


async def echo(websocket: WebSocket) -> None:
    """Echo each message; close after the text `close`."""
    await websocket.accept()
    while (event := await websocket.receive())["type"] == "websocket.receive":
        if event.get("text") == "close":
            await websocket.close(4_321, "as you wish")
        elif event.get("text") is not None:
            await websocket.send_text(event["text"])
        else:
            await websocket.send_bytes(event["bytes"])


async def test_other_routes_receive_and_send(strict_service: Live) -> None:
    async with other_route(strict_service, echo) as client:
        await client.upgraded()
        for _ in range(3):
            client.send(masked(b"one") + masked(b"two", BINARY) + masked(b"three") * 2)
            expected = [(TEXT, b"one"), (BINARY, b"two"), (TEXT, b"three"), (TEXT, b"three")]
            assert [await client.frame() for _ in range(4)] == expected
        client.send(masked(b"close"))
        assert await client.frame() == (CLOSE, (4_321).to_bytes(2) + b"as you wish")
        client.send(masked_close(4_321))
        await client.ended()


async def test_other_routes_receive_the_disconnect(strict_service: Live) -> None:
    async with other_route(strict_service, echo) as client:
        await client.upgraded()
        client.send(masked(b"text") + masked_close(1001))
        assert await client.frame() == (CLOSE, (1001).to_bytes(2))
        await client.ended()


async def test_a_slow_reader_delays_only_its_own_route(
    strict_service: Live,
) -> None:
    sent: list[int] = []
    count, size = 40, 200_000

    async def pour(websocket: WebSocket) -> None:
        await websocket.accept()
        for number in range(count):
            await websocket.send_text(str(number).ljust(size))
            sent.append(number)
        await websocket.close()

    async with other_route(strict_service, pour) as client:
        await client.upgraded()
        protocol = only_protocol(strict_service)
        protocol.close_timeout = 60  # the close comes after what the system has buffered
        await wait_until(lambda: not protocol.writable.is_set())
        assert len(sent) < count
        assert protocol.unsent_bytes() < 2 * size
        other = await strict_service.connect("bob")
        await other.close()
        for number in range(count):
            opcode, payload = await client.frame()
            assert (opcode, len(payload), int(payload)) == (TEXT, size, number)
        assert await client.close_code() == 1000
        client.send(masked_close(1000))
        await client.ended()


async def test_closing_another_route_times_out(strict_service: Live) -> None:
    async def close_with_a_debt(websocket: WebSocket) -> None:
        await websocket.accept()
        protocol = only_protocol(strict_service)
        protocol.close_timeout = 0.1
        while not protocol.unsent_bytes():
            await websocket.send_text("x" * 20_000)
        await websocket.close()

    async with other_route(strict_service, close_with_a_debt) as client:
        await client.upgraded()
        await wait_until(lambda: is_empty(strict_service))


async def test_binary_messages_count_as_unread_bytes() -> None:
    inbox = Inbox(asyncio.get_running_loop())
    inbox.put_nowait({"type": "websocket.receive", "bytes": b"123"})
    assert inbox.unread_bytes == MESSAGE_BYTES + 3
