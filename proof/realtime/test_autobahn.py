"""The cases of the Autobahn Testsuite by their numbers, as bytes, on a running service.

The suite itself needs an echo server and an old Python. Here a message to oneself replaces the
echo, and malformed frames are sent unchanged. Differences from the suite:

- 1.2, binary messages: closed with 1003 (`test_binary_messages_are_refused`).
- 6.4, fail-fast on invalid UTF-8: refused at the end of the message, which the suite calls
  non-strict (`test_bad_text_is_refused_by_the_end_of_the_message`).
- 7.1.1 and 7.1.6, a message followed by a close: the message is handled, but the close is
  answered first (`test_a_text_before_an_illegal_frame_is_still_handled` in
  `server/test_websocket.py`).
- 7.1.5, a close within a fragmented message: a protocol error, since the message is incomplete.
- 7.13, undefined close codes: the suite accepts any behaviour.
- 9, time and size: `make bench` measures, `MAX_MESSAGE_BYTES` limits.
- 12 and 13, compression: never negotiated (`server/test_websocket.py`).
"""

import json
from collections.abc import AsyncIterator

import pytest

from .live import Live, make_settings, run_service
from .raw_client import BINARY, CLOSE, CONT, PING, PONG, masked, masked_close
from .server.test_websocket import (
    CountingProtocol,
    Peer,
    assert_quiet,
    fragments,
    welcomed_peer,
)

pytestmark = pytest.mark.hostile(10, 16, 17, 18, 19, 20, 21, 22)

MAX_BYTES = 100_000


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Live]:
    """Run a service that accepts messages of the suite's sizes."""
    settings = make_settings(max_message_bytes=MAX_BYTES)
    async with run_service(settings, ws=CountingProtocol) as live:
        yield live


@pytest.fixture
async def peer(service: Live) -> AsyncIterator[Peer]:
    """Return both ends of a new connection."""
    async with welcomed_peer(service) as peer:
        yield peer


def to_oneself(peer: Peer, data: bytes) -> bytes:
    """Return a `send` command to the peer's own user; the data is not escaped."""
    head = json.dumps({"type": "send", "to": peer.connection.user}).encode()
    return b'%s, "data": "%s"}' % (head[:-1], data)


def pieces_of(payload: bytes, size: int) -> list[bytes]:
    """Return the frames of a message, with `size` bytes each."""
    return fragments(payload, *range(size, len(payload), size))


def chopped(data: bytes, size: int) -> list[bytes]:
    """Return the bytes in pieces of `size`."""
    return [data[at : at + size] for at in range(0, len(data), size)]


async def assert_echo(peer: Peer, data: bytes) -> None:
    """Assert that the next message has this text."""
    message = await peer.client.text()
    assert message["type"] == "message"
    assert str(message["data"]).encode() == data


GREEK = "\u03ba\u1f79\u03c3\u03bc\u03b5"
"""Letters of two and three bytes; 6.5 is the whole text, 6.6 its first bytes."""

# Texts that are echoed.
SIZES = [0, 125, 126, 127, 128, 65_535, 65_536]
GOOD_TEXTS: dict[str, str] = {
    **{f"1.1.{number}": "*" * size for number, size in enumerate(SIZES, 1)},
    "6.2.1": "Hello-µ@ßöäüàá-UTF-8!!",
    **{f"6.6.{len(GREEK[:size].encode())}": GREEK[:size] for size in range(1, 6)},
    "6.7.2": "\u0080",
    "6.7.3": "\u0800",
    "6.7.4": "\U00010000",
    "6.9.1": "\u007f",
    "6.9.2": "\u07ff",
    "6.9.3": "\uffff",
    "6.9.4": "\U0010ffff",
    "6.11.1": "\ud7ff",
    "6.11.2": "\ue000",
    "6.11.3": "\ufffd",
    "6.11.4": "\U0010ffff",
    **{f"6.22.{number}": chr(code) for number, code in enumerate([0xFFFE, 0xFFFF], 1)},
    **{
        f"6.22.{2 * plane + 1 + last}": chr(0x10000 * plane + 0xFFFE + last)
        for plane in range(1, 17)
        for last in (0, 1)
    },
    **{f"6.23.{number}": chr(0xFFF9 + number - 1) for number in range(1, 8)},
}


@pytest.mark.parametrize("case", GOOD_TEXTS)
async def test_text_is_echoed(peer: Peer, case: str) -> None:
    """In one frame; split, as in 1.1.8; in fragments of one byte, as in 6.2.3, 6.2.4 and 6.5."""
    data = GOOD_TEXTS[case].encode()
    message = to_oneself(peer, data)
    sendings = [[masked(message)], chopped(masked(message), 997)]
    if len(message) < 1_000:
        sendings.append(pieces_of(message, 1))
    for pieces in sendings:
        await peer.send_pieces(*pieces)
        await assert_echo(peer, data)


BAD_TEXTS: dict[str, bytes] = {
    "6.3.1": b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    **{f"6.6.{size}": GREEK.encode()[:size] for size in (1, 3, 4, 6, 8, 10)},
    "6.8.1": b"\xf8\x88\x80\x80\x80",
    "6.8.2": b"\xfc\x84\x80\x80\x80\x80",
    "6.10.1": b"\xf7\xbf\xbf\xbf",
    "6.10.2": b"\xfb\xbf\xbf\xbf\xbf",
    "6.10.3": b"\xfd\xbf\xbf\xbf\xbf\xbf",
    "6.11.5": b"\xf4\x90\x80\x80",
    "6.12.1": b"\x80",
    "6.12.2": b"\xbf",
    **{f"6.12.{count + 1}": (b"\x80\xbf" * 3)[:count] for count in range(2, 7)},
    "6.12.8": bytes(range(0x80, 0xC0)),
    "6.13.1": b"".join(b"%c " % code for code in range(0xC0, 0xE0)),
    "6.13.2": b"".join(b"%c " % code for code in range(0xE0, 0xF0)),
    "6.13.3": b"".join(b"%c " % code for code in range(0xF0, 0xF8)),
    "6.13.4": b"".join(b"%c " % code for code in range(0xF8, 0xFC)),
    "6.13.5": b"\xfc ",
    "6.14.1": b"\xc0",
    "6.14.2": b"\xe0\x80",
    "6.14.3": b"\xf0\x80\x80",
    "6.14.4": b"\xf8\x80\x80\x80",
    "6.14.5": b"\xfc\x80\x80\x80\x80",
    "6.14.6": b"\xdf",
    "6.14.7": b"\xef\xbf",
    "6.14.8": b"\xf7\xbf\xbf",
    "6.14.9": b"\xfb\xbf\xbf\xbf",
    "6.14.10": b"\xfd\xbf\xbf\xbf\xbf",
    "6.15.1": b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xfc\x80\x80\x80\x80\xdf\xef\xbf",
    "6.16.1": b"\xfe",
    "6.16.2": b"\xff",
    "6.16.3": b"\xfe\xfe\xff\xff",
    "6.17.1": b"\xc0\xaf",
    "6.17.2": b"\xe0\x80\xaf",
    "6.17.3": b"\xf0\x80\x80\xaf",
    "6.17.4": b"\xf8\x80\x80\x80\xaf",
    "6.17.5": b"\xfc\x80\x80\x80\x80\xaf",
    "6.18.1": b"\xc1\xbf",
    "6.18.2": b"\xe0\x9f\xbf",
    "6.18.3": b"\xf0\x8f\xbf\xbf",
    "6.18.4": b"\xf8\x87\xbf\xbf\xbf",
    "6.18.5": b"\xfc\x83\xbf\xbf\xbf\xbf",
    "6.19.1": b"\xc0\x80",
    "6.19.2": b"\xe0\x80\x80",
    "6.19.3": b"\xf0\x80\x80\x80",
    "6.19.4": b"\xf8\x80\x80\x80\x80",
    "6.19.5": b"\xfc\x80\x80\x80\x80\x80",
    **{
        f"6.20.{number}": chr(code).encode(errors="surrogatepass")
        for number, code in enumerate([0xD800, 0xDB7F, 0xDB80, 0xDBFF, 0xDC00, 0xDF80, 0xDFFF], 1)
    },
    **{
        f"6.21.{number}": pair.encode(errors="surrogatepass")
        for number, pair in enumerate(
            [high + low for high in "\ud800\udb7f\udb80\udbff" for low in "\udc00\udfff"], 1
        )
    },
}


@pytest.mark.parametrize("case", BAD_TEXTS)
async def test_bad_text_closes_with_1007(service: Live, case: str) -> None:
    """In one frame, and in fragments of one byte, as in 6.3.2."""
    for frames in ([masked(BAD_TEXTS[case])], pieces_of(BAD_TEXTS[case], 1)):
        async with welcomed_peer(service) as peer:
            peer.client.send(b"".join(frames))
            assert await peer.client.close_code() == 1007
            peer.client.send(masked_close(1007))
            await peer.client.ended()


async def test_bad_text_is_refused_by_the_end_of_the_message(peer: Peer) -> None:
    """6.4."""
    for piece in pieces_of(BAD_TEXTS["6.3.1"], 4):
        peer.client.send(piece)
    assert await peer.client.close_code() == 1007


EMPTY = masked(b"", CONT, fin=False)


@pytest.mark.parametrize(
    ("case", "frames"),
    {
        "6.1.1": masked(b""),
        "6.1.2": masked(b"", fin=False) + EMPTY + masked(b"", CONT),
        "6.1.3": masked(b"", fin=False) + masked(b"middle", CONT, fin=False) + masked(b"", CONT),
        "6.7.1": masked(b"\0"),
    }.items(),
)
async def test_text_other_than_a_command_is_an_error(peer: Peer, case: str, frames: bytes) -> None:
    peer.client.send(frames)
    assert (await peer.client.text())["code"] == "bad_request"
    await assert_quiet(peer.client)


@pytest.mark.parametrize("size", [0, 125, 126, 127, 128, 65_535, 65_536])
async def test_binary_messages_are_refused(peer: Peer, size: int) -> None:
    """1.2."""
    peer.client.send(masked(b"\xfe" * size, BINARY))
    assert await peer.client.close_code() == 1003


LONGEST = masked(b"\xfe" * 125, PING)
TEN = [b"payload-%d" % number for number in range(10)]
TEN_PINGS = [masked(payload, PING) for payload in TEN]

# Pieces to send, and the payloads of the pongs.
PINGS: dict[str, tuple[list[bytes], list[bytes]]] = {
    "2.1": ([masked(b"", PING)], [b""]),
    "2.2": ([masked(b"Hello, world!", PING)], [b"Hello, world!"]),
    "2.3": ([masked(b"\x00\xff\xfe\xfd", PING)], [b"\x00\xff\xfe\xfd"]),
    "2.4": ([LONGEST], [b"\xfe" * 125]),
    "2.6": (chopped(LONGEST, 1), [b"\xfe" * 125]),
    "2.7": ([masked(b"", PONG)], []),
    "2.8": ([masked(b"unsolicited pong payload", PONG)], []),
    "2.9": ([masked(b"unsolicited", PONG), masked(b"ping", PING)], [b"ping"]),
    "2.10": (TEN_PINGS, TEN),
    "2.11": (chopped(b"".join(TEN_PINGS), 1), TEN),
}


@pytest.mark.parametrize("case", PINGS)
async def test_pings_are_answered_in_order(peer: Peer, case: str) -> None:
    pieces, pongs = PINGS[case]
    await peer.send_pieces(*pieces)
    for payload in pongs:
        assert await peer.client.frame() == (PONG, payload)
    await assert_quiet(peer.client)


# The order of a message's two halves, empty fragments and pings.
INTERLEAVED = {
    "5.3": "first last",
    "5.6": "first ping last",
    "5.19": "first ping empty ping empty last",
}


@pytest.mark.parametrize("chop", [None, 1], ids=["frames", "octets"])
@pytest.mark.parametrize("case", INTERLEAVED)
async def test_fragments_are_joined_across_pings(peer: Peer, case: str, chop: int | None) -> None:
    """In frames, also 5.4 and 5.7; in octets, 5.5, 5.8 and 5.20."""
    message = to_oneself(peer, b"fragment1fragment2")
    half = len(message) // 2
    frames = {
        "first": masked(message[:half], fin=False),
        "empty": EMPTY,
        "ping": masked(b"pongme", PING),
        "last": masked(message[half:], CONT),
    }
    sent = [frames[name] for name in INTERLEAVED[case].split()]
    await peer.send_pieces(*(chopped(b"".join(sent), chop) if chop else sent))
    for _ in range(sent.count(frames["ping"])):
        assert await peer.client.frame() == (PONG, b"pongme")
    await assert_echo(peer, b"fragment1fragment2")


HELLO = masked(b"Hello, world!")
START, END = masked(b"fragment1", fin=False), masked(b"fragment2", CONT)
ORPHAN, ORPHAN_END = masked(b"non-continuation", CONT, fin=False), masked(b"payload", CONT)

ILLEGAL: dict[str, bytes] = {
    "2.5": masked(b"\xfe" * 126, PING),
    "3.1": masked(b"Hello, world!", reserved=1),
    "3.2": HELLO + masked(b"Hello, world!", reserved=2) + masked(b"", PING),
    "3.4": HELLO + masked(b"Hello, world!", reserved=4) + masked(b"", PING),
    "3.5": masked(b"\x00\xff", BINARY, reserved=5),
    "3.6": masked(b"Hello, world!", PING, reserved=6),
    "3.7": masked(b"\x03\xe8", CLOSE, reserved=7),
    **{f"4.1.{number}": masked(b"", 2 + number) for number in range(1, 6)},
    **{f"4.2.{number}": masked(b"", 10 + number) for number in range(1, 6)},
    "5.1": masked(b"fragment1", PING, fin=False) + END,
    "5.2": masked(b"fragment1", PONG, fin=False) + END,
    "5.9": ORPHAN_END + HELLO,
    "5.12": ORPHAN + HELLO,
    "5.15": START + END + ORPHAN + HELLO,
    "5.16": 2 * (ORPHAN + START + END),
    "5.17": 2 * (ORPHAN_END + START + END),
    "5.18": START + masked(b"fragment2"),
    "7.1.5": START + masked_close(1000) + END,
    "7.3.2": masked(b"\x03", CLOSE),
    "7.3.6": masked(b"\x03\xe8" + b"*" * 124, CLOSE),
    **{
        f"7.9.{number}": masked_close(code)
        for number, code in enumerate([0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999], 1)
    },
}


@pytest.mark.parametrize("chop", [None, 1], ids=["frames", "octets"])
@pytest.mark.parametrize("case", ILLEGAL)
async def test_protocol_violations_close_with_1002(
    service: Live, case: str, chop: int | None
) -> None:
    """Also 3.3, 5.10, 5.11, 5.13 and 5.14, which differ only in how they are split."""
    async with welcomed_peer(service) as peer:
        for piece in chopped(ILLEGAL[case], chop) if chop else [ILLEGAL[case]]:
            peer.client.send(piece)
        assert await peer.client.close_code() == 1002
        peer.client.send(masked_close(1002))
        await peer.client.ended()


# Bytes to send, and the payload of the close frame in response.
CLOSES: dict[str, tuple[bytes, bytes]] = {
    "7.1.2": (2 * masked_close(1000), b"\x03\xe8"),
    "7.1.3": (masked_close(1000) + masked(b"", PING), b"\x03\xe8"),
    "7.1.4": (masked_close(1000) + HELLO, b"\x03\xe8"),
    "7.3.1": (masked(b"", CLOSE), b""),
    "7.3.3": (masked(b"\x03\xe8", CLOSE), b"\x03\xe8"),
    "7.3.4": (masked_close(1000, "Hello World!"), b"\x03\xe8Hello World!"),
    "7.3.5": (masked_close(1000, "*" * 123), b"\x03\xe8" + b"*" * 123),
    "7.5.1": (masked(b"\x03\xe8" + BAD_TEXTS["6.3.1"], CLOSE), b"\x03\xef"),
    **{
        f"7.7.{number}": (masked_close(code), code.to_bytes(2))
        for number, code in enumerate(
            [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999], 1
        )
    },
}


@pytest.mark.parametrize("case", CLOSES)
async def test_close_frames_are_answered(service: Live, case: str) -> None:
    """With the same payload, or 1007 if it is malformed; then the connection ends."""
    sent, payload = CLOSES[case]
    async with welcomed_peer(service) as peer:
        peer.client.send(sent)
        opcode, answer = await peer.client.frame()
        assert opcode == CLOSE
        assert answer[:2] == payload[:2]
        assert answer == payload or payload == b"\x03\xef"
        await peer.client.ended()


async def test_many_small_fragments_make_one_message(peer: Peer) -> None:
    """10.1.1."""
    data = b"*" * 65_000
    await peer.send_pieces(*pieces_of(to_oneself(peer, data), 1_300))
    await assert_echo(peer, data)
