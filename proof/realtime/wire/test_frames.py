"""Frames as bytes, exhaustively: every cut, length, mask and opcode."""

import json

import pytest
from websockets.frames import Frame, Opcode

from app.realtime.wire.frame import FrameScanner, read_texts, text_frame

from ..raw_client import BINARY, CLOSE, CONT, PING, PONG, masked
from .test_frame import LIMIT, SIZES


def library_frame(text: str) -> bytes:
    """Return what a client of the `websockets` package sends."""
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=True, extensions=[])


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535])
def test_a_text_is_read(size: int) -> None:
    text = "é" * (size // 2) + "x" * (size % 2)
    frame = library_frame(text)
    assert read_texts(frame, LIMIT) == ([text], len(frame))


@pytest.mark.parametrize("mask", [bytes(4), b"\xff" * 4, b"\x00\xff\x00\xff", b"\x81\x85\x00\x01"])
def test_a_text_is_read_with_any_mask(mask: bytes) -> None:
    text = json.dumps({"type": "ping"})
    assert read_texts(masked(text.encode(), mask=mask), LIMIT)[0] == [text]


def test_all_complete_texts_of_a_truncated_stream_are_read() -> None:
    texts = ["", "a", "four", "grüße", "x" * 125, "y" * 126, "z" * 300, "", "end"]
    frames = [library_frame(text) for text in texts]
    stream = b"".join(frames)
    whole = size = 0
    for end in range(len(stream) + 1):
        if whole < len(frames) and end == size + len(frames[whole]):
            size = end
            whole += 1
        assert read_texts(stream[:end], LIMIT) == (texts[:whole], size)
    assert whole == len(texts)


@pytest.mark.parametrize(
    "other",
    [
        masked(b"", PING),
        masked(b"pong", PONG),
        masked(b"\x03\xe8", CLOSE),
        masked(b"binary", 2),
        masked(b"start", fin=False),
        masked(b"rest", CONT),
        masked(b"reserved", reserved=4),
        masked(b"reserved", reserved=2),
        masked(b"reserved", reserved=1),
        masked(b"\xff"),
        masked("é".encode()[:1]),
        masked(b"\xed\xa0\x80"),
        masked(bytes(65_536), mask=bytes(4)),
        b"\x81\xff" + (5).to_bytes(8) + bytes(4) + b"short" + bytes(127),
        text_frame(bytes(4)) + bytes(4),
        text_frame(bytes(126)),
        text_frame(bytes(65_536)),
    ],
)
def test_reading_stops_before_any_other_frame(other: bytes) -> None:
    before = masked(b"x" * 100)
    assert read_texts(other, LIMIT) == ([], 0)
    assert read_texts(before + other + before, LIMIT) == (["x" * 100], len(before))


def test_a_non_minimal_length_is_read() -> None:
    frame = b"\x81\xfe" + (5).to_bytes(2) + bytes(4) + b"hello"
    assert read_texts(frame + frame, LIMIT) == (["hello", "hello"], 2 * len(frame))


ANY_FRAMES = [
    masked(b"x" * size, opcode, fin=fin, reserved=reserved)
    for size in SIZES[:6]
    for opcode, fin, reserved in [
        (BINARY, False, 0),
        (CONT, True, 7),
        (PING, True, 0),
        (11, True, 1),
    ]
]
UNMASKED = [b"\x81\x00", text_frame(b"x" * 130)]
LONG_WINDED = [b"\x81\xff" + (3).to_bytes(8) + bytes(7), b"\x81\xfe\x00\x00" + bytes(4)]


@pytest.mark.parametrize("frame", [*ANY_FRAMES, *UNMASKED, *LONG_WINDED])
def test_the_end_of_a_split_frame_is_found(frame: bytes) -> None:
    ends = {*range(1, min(len(frame), 20)), len(frame) - 1}
    for cut in sorted(ends - {0, len(frame)}):
        scanner = FrameScanner()
        scanner.scan(frame[:cut])
        assert not scanner.between_frames
        scanner.scan(frame[cut:])
        assert scanner.between_frames
        assert not scanner.closed


def test_scanning_stops_at_the_close_frame() -> None:
    disguised = masked(masked(b"", CLOSE), mask=bytes(4))
    before, close = b"".join([*ANY_FRAMES, disguised]), masked(b"\x03\xe8", CLOSE)
    scanner = FrameScanner()
    scanner.scan(before + close[:-1])
    assert not scanner.closed
    scanner.scan(close[-1:] + masked(b"x")[:3])
    assert scanner.closed
    assert scanner.between_frames


def test_a_frame_of_any_length_is_scanned_without_buffering() -> None:
    scanner = FrameScanner()
    scanner.scan(b"\x81\xff" + (2**63 - 1).to_bytes(8))
    for _ in range(100):
        scanner.scan(masked(b"\x03\xe8", CLOSE))
    assert not scanner.closed
