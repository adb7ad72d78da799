"""What a replay and the answer to `presence` cost, and who pays."""

import json
import socket
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from app.realtime import Identity
from app.realtime.limits import budget
from app.realtime.protocol import ServerFrame
from app.realtime.server.websocket import FrameProtocol
from app.realtime.wire.frame import encode

from ..client import Client, Frame
from ..live import make_settings, run_service, wait_until
from ..raw_client import masked, raw_client

NESTED: list[object] = [[]] * 2_000


class Known:
    """Takes everybody for the same user."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    async def authenticate(self, handshake: HTTPConnection) -> Identity:
        """Return the identity."""
        return self._identity


async def fill(client: Client, count: int, data: object = "x" * 1_000) -> Frame:
    """Publish so many messages to a room; return the position before them."""
    position = await client.ask(type="join", room="lobby")
    for _ in range(count):
        assert (await client.ask(type="publish", room="lobby", data=data))["type"] == "ok"
    return {"epoch": position["epoch"], "offset": position["offset"]}


async def come_back(client: Client, since: Frame) -> tuple[Frame, int]:
    """Join anew; return the answer and the bytes that came."""
    await client.ask(type="leave", room="lobby")
    answer = await client.ask(type="join", room="lobby", since=since)
    replayed = [await client.receive("message") for _ in range(answer.get("replayed", 0))]
    return answer, sum(len(json.dumps(frame)) for frame in (answer, *replayed))


@pytest.mark.hostile(82)
async def test_what_is_replayed_is_paid_by_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """109 bytes bring 100 messages, as often as messages may be sent."""
    monkeypatch.setattr(budget, "monotonic", lambda: 1_000.0)
    settings = make_settings(max_bytes_per_s=50_000, max_burst_s=2)
    async with run_service(settings) as live:
        since = await fill(await live.connect("alice"), 50)
        reader = await live.connect("bob")
        received = 0
        for _ in range(20):
            answer, size = await come_back(reader, since)
            received += size
            if answer["type"] == "error":
                break
        assert answer["code"] == "rate_limited"
        one_replay = 50 * 1_200
        assert received <= 50_000 * 2 + one_replay


async def test_others_have_a_turn_after_each_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = FrameProtocol.write

    def note(protocol: FrameProtocol, frames: Sequence[bytes], max_unsent: int) -> int | None:
        written.append(len(frames))
        return write(protocol, frames, max_unsent)

    async with run_service() as live:
        since = await fill(await live.connect("alice"), 20, data=1)
        reader = await live.connect("bob")
        monkeypatch.setattr(FrameProtocol, "write", note)
        for _ in range(10):
            await reader.send(type="leave", room="lobby")
            await reader.send(type="join", room="lobby", since=since)
        for _ in range(10 * 20):
            await reader.receive("message")
        assert max(written) <= 20 + 2


SMALL_BUFFER_BYTES = 16_384
ROOMS, MESSAGES = 6, 18


@pytest.mark.hostile(56)
@pytest.mark.parametrize("ws", [FrameProtocol, "websockets-sansio"])
async def test_a_slow_reader_is_not_closed_by_what_it_has_missed(ws: Any) -> None:
    """In several rooms at once: together more bytes than may be unsent, in each room fewer."""
    settings = make_settings(max_unsent_bytes=170_000, history_bytes=100_000)
    async with run_service(settings, ws=ws) as live:
        other, rooms, since = await live.connect("bob"), live.service.rooms, dict[str, Frame]()
        for room in map(str, range(ROOMS)):
            position = (await rooms.history(room)).position
            since[room] = {"epoch": position.epoch, "offset": position.offset}
            for _ in range(MESSAGES):
                await rooms.publish(room, "x" * 5_000)
        async with raw_client(await live.options()) as client:
            await client.upgraded()
            name = (await client.text())["connection"]
            (connection,) = [each for each in live.service.manager if each.id == name]
            for protocol in live.server.server_state.connections:
                peer = protocol.transport.get_extra_info("socket")
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
            for room in since:
                command = {"type": "join", "room": room, "since": since[room]}
                client.send(masked(json.dumps(command).encode()))
            await wait_until(lambda: connection.unsent_bytes() > 0)
            for _ in range(50):
                assert (await other.ask(type="ping"))["type"] == "pong"
            assert connection.closed is None
            replayed = Counter[str]()
            while replayed.total() < ROOMS * MESSAGES:
                frame = await client.text()
                replayed[frame["room"]] += frame["type"] == "message"
            assert replayed == dict.fromkeys(since, MESSAGES)


async def test_a_message_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the memory of one node: for its members, for the history, and for each replay."""
    encoded = 0

    def count(frame: ServerFrame) -> bytes:
        nonlocal encoded
        encoded += 1
        return encode(frame)

    monkeypatch.setattr("app.realtime.rooms.frames.encode", count)
    async with run_service(make_settings()) as live:
        since = await fill(await live.connect("alice"), 10, data=NESTED)
        reader = await live.connect("bob")
        for _ in range(5):
            answer, _ = await come_back(reader, since)
            assert answer["replayed"] == 10
        assert encoded == 10


async def test_the_answer_to_presence_is_no_larger_than_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What many long names take is bounded, and paid by who asks."""
    monkeypatch.setattr(budget, "monotonic", lambda: 1_000.0)
    settings = make_settings(max_message_bytes=2_000, max_bytes_per_s=5_000, max_burst_s=1)
    async with run_service(settings) as live:
        options = await live.options()
        for number in range(30):
            identity = Identity(f"{number:02}" + '"' * 80)
            monkeypatch.setattr(live.service, "authenticator", Known(identity))
            client = await live.connect_with(options)
            await client.ask(type="join", room="lobby")
        answer = await client.ask(type="presence", room="lobby")
        assert answer["total"] == 30
        assert 0 < len(answer["members"]) < 30
        assert len(json.dumps(answer)) < 2_500
        codes = [(await client.ask(type="presence", room="lobby")).get("code") for _ in range(5)]
        assert codes[-1] == "rate_limited"
