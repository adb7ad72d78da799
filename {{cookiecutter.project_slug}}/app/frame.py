"""WebSocket frames (RFC 6455 §5): the one kind that is sent, and the one that mostly arrives.

Pure: bytes in, bytes or text out.
"""

from struct import Struct

try:
    from websockets.speedups import apply_mask
except ImportError:  # where the library comes without its C code
    from websockets.utils import apply_mask

WHOLE_TEXT = 0x81
"""FIN and opcode 1: a text message in a single frame."""

MASK_FLAG = 0x80
MASK_BYTES = 4

SMALL_HEADER = Struct("!BB")
MEDIUM_HEADER = Struct("!BBH")
LARGE_HEADER = Struct("!BBQ")


def text_frame(payload: bytes) -> bytes:
    """Return an unmasked, uncompressed frame around UTF-8 text."""
    size = len(payload)
    if size < 126:
        return SMALL_HEADER.pack(WHOLE_TEXT, size) + payload
    if size < 65_536:
        return MEDIUM_HEADER.pack(WHOLE_TEXT, 126, size) + payload
    return LARGE_HEADER.pack(WHOLE_TEXT, 127, size) + payload


def frame_payload(frame: bytes) -> bytes:
    """Return the text that `text_frame` wrapped."""
    header = {126: MEDIUM_HEADER, 127: LARGE_HEADER}.get(frame[1], SMALL_HEADER)
    return frame[header.size :]


def masked_frame_size(payload_size: int) -> int:
    """Return the size of a client's frame: header, mask and payload."""
    return (2 if payload_size < 126 else 4 if payload_size < 65_536 else 10) + 4 + payload_size


def read_texts(received: bytes, max_bytes: int) -> tuple[list[str], int]:
    """Return the whole text messages that ``received`` begins with, and the size of their frames.

    Stops before the first frame that is anything else: a control frame, a fragment, a frame that
    is unfinished, unmasked or larger than ``max_bytes``, or whose payload is not UTF-8.
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
