"""WebSocket frames (RFC 6455 §5): a fast encoder and decoder of unfragmented text messages."""

import math
from collections.abc import Callable
from struct import Struct
from typing import Any

from pydantic import JsonValue, TypeAdapter
from pydantic_core import from_json

try:
    from websockets.speedups import apply_mask
except ImportError:  # the library was built without its C code
    from websockets.utils import apply_mask

from ..errors import TooLarge
from ..protocol import ServerFrame

WHOLE_TEXT = 0x81
"""FIN and opcode 1: a text message in a single frame."""

OPCODE_BITS = 0x0F
CLOSE_OPCODE = 0x8

MASK_FLAG = 0x80
MASK_BYTES = 4

HEADER_BYTES = 2
EXTENDED_LENGTH_BYTES = {126: 2, 127: 8}
"""Bytes of the extended payload length, by the value of the short one."""

SMALL_HEADER = Struct("!BB")
MEDIUM_HEADER = Struct("!BBH")
LARGE_HEADER = Struct("!BBQ")

_serializers: dict[type[ServerFrame], Callable[[Any], bytes]] = {}


def encode(frame: ServerFrame) -> bytes:
    """Return the WebSocket frame with a server frame's JSON."""
    kind = type(frame)
    if kind not in _serializers:
        _serializers[kind] = TypeAdapter(kind).serializer.to_json
    return text_frame(_serializers[kind](frame))


def frame_data(frame: ServerFrame) -> JsonValue:
    """Return the JSON object of a server frame."""
    data: JsonValue = from_json(frame_payload(encode(frame)))
    return data


def text_frame(payload: bytes) -> bytes:
    """Return an unmasked, uncompressed frame around UTF-8 text."""
    size = len(payload)
    if size < 126:
        return SMALL_HEADER.pack(WHOLE_TEXT, size) + payload
    if size < 65_536:
        return MEDIUM_HEADER.pack(WHOLE_TEXT, 126, size) + payload
    return LARGE_HEADER.pack(WHOLE_TEXT, 127, size) + payload


def check_frame_size(frame: bytes, max_bytes: float) -> None:
    """Check that a frame is not larger than the unsent bytes that a connection may have.

    Raises:
        TooLarge: it is larger.
    """
    if len(frame) > max_bytes:
        raise TooLarge(f"the encoded message has {len(frame)} bytes, more than {max_bytes}")


def frame_payload(frame: bytes) -> bytes:
    """Return the payload of a frame that `text_frame` has made."""
    header = {126: MEDIUM_HEADER, 127: LARGE_HEADER}.get(frame[1], SMALL_HEADER)
    return frame[header.size :]


def read_texts(received: bytes, max_bytes: int) -> tuple[list[str], int]:
    """Return the whole text messages at the start of ``received``, and the size of their frames.

    Stops before any other frame: a control frame, a fragment, an incomplete or unmasked frame, one
    larger than ``max_bytes``, or one whose payload is not UTF-8.
    """
    texts = []
    start = 0
    available = len(received)
    while available - start >= 2 + MASK_BYTES and received[start] == WHOLE_TEXT:
        size = received[start + 1] - MASK_FLAG
        mask_at = start + 2
        if size == 126:
            size = received[mask_at] << 8 | received[mask_at + 1]
            mask_at += 2
        elif not 0 <= size < 126:
            break
        payload_at = mask_at + MASK_BYTES
        end = payload_at + size
        if size > max_bytes or end > available:
            break
        payload = apply_mask(received[payload_at:end], received[mask_at:payload_at])
        try:
            texts.append(payload.decode())
        except UnicodeDecodeError:
            break
        start = end
    return texts, start


class FrameScanner:
    """Follows a client's stream from frame to frame, valid or not, without storing payloads."""

    __slots__ = ("_header", "_left", "between_frames", "closed", "others")

    def __init__(self) -> None:
        self.closed = False
        """Whether a complete close frame has arrived. Bytes after it are ignored."""
        self.between_frames = True
        """Whether the stream is at a frame boundary."""
        self.others = 0
        """Frames so far that are not whole text messages."""
        self._header = b""  # of the current frame, as far as it has arrived
        self._left: int | None = None  # bytes of mask and payload; None within the header

    def scan(self, received: bytes, max_others: float = math.inf) -> int:
        """Scan until ``others`` has grown by ``max_others``; return the number of scanned bytes."""
        at = 0
        max_others += self.others
        while at < len(received) and not self.closed and self.others < max_others:
            if self._left is None:
                self._header += received[at : at + 1]
                at += 1
                self._left = _size_after(self._header)
            else:
                step = min(self._left, len(received) - at)
                at += step
                self._left -= step
            if self._left == 0:
                self.closed = self._header[0] & OPCODE_BITS == CLOSE_OPCODE
                self.others += self._header[0] != WHOLE_TEXT
                self._header, self._left = b"", None
        self.between_frames = not self._header
        return len(received) if self.closed else at


def _size_after(header: bytes) -> int | None:
    # Bytes of mask and payload (RFC 6455 §5.2); None while the header is incomplete.
    if len(header) < HEADER_BYTES:
        return None
    size = header[1] & ~MASK_FLAG
    extended_bytes = EXTENDED_LENGTH_BYTES.get(size, 0)
    if len(header) < HEADER_BYTES + extended_bytes:
        return None
    if extended_bytes:
        size = int.from_bytes(header[HEADER_BYTES:])
    return size + (MASK_BYTES if header[1] & MASK_FLAG else 0)
