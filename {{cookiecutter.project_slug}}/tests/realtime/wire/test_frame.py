"""Frames as bytes: encoding, and the engine's own parser."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from app.realtime.wire.frame import frame_payload, read_texts, text_frame

from ..raw_client import BINARY, CLOSE, CONT, PING, PONG, masked

SIZES = [0, 1, 125, 126, 127, 65_535, 65_536, 100_000]
LIMIT = 1_000_000


@pytest.mark.parametrize("size", SIZES)
def test_frames_keep_their_payload(size: int) -> None:
    payload = b"x" * size
    frame = text_frame(payload)
    assert frame == Frame(Opcode.TEXT, payload).serialize(mask=False, extensions=[])
    assert frame_payload(frame) == payload


@settings(derandomize=True, deadline=None)
@given(
    texts=st.lists(st.text(max_size=200)),
    opcode=st.sampled_from([CONT, BINARY, CLOSE, PING, PONG]),
    payload=st.binary(max_size=125),
    mask=st.binary(min_size=4, max_size=4),
    lost=st.integers(0, 20),
)
def test_texts_are_read_up_to_the_first_other_frame(
    texts: list[str], opcode: int, payload: bytes, mask: bytes, lost: int
) -> None:
    frames = [masked(text.encode(), mask=mask) for text in texts]
    stream = b"".join(frames) + masked(payload, opcode, mask=mask) + masked(b"{}")
    assert read_texts(stream, LIMIT) == (texts, sum(map(len, frames)))
    read, size = read_texts(stream[: max(0, sum(map(len, frames)) - lost)], LIMIT)
    assert texts[: len(read)] == read
    assert size == sum(map(len, frames[: len(read)]))


@pytest.mark.parametrize("limit", [0, 1, 125, 126, 127, 65_534])
def test_reading_stops_before_an_oversized_frame(limit: int) -> None:
    allowed = masked(b"x" * limit)
    assert read_texts(allowed, limit) == (["x" * limit], len(allowed))
    assert read_texts(allowed + masked(b"x" * (limit + 1)), limit)[1] == len(allowed)
