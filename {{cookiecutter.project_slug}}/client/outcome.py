"""Frames, status of a connection, errors, and the pause between attempts."""

import json
import random
from dataclasses import dataclass
from typing import Any, Literal

Frame = dict[str, Any]
"""A frame of ``docs/protocol.md``."""

NORMAL, ABNORMAL = 1000, 1006
FINAL = {1002, 1003, 1007, 1009, *range(4500, 5000)}
"""Close codes after which a client must not reconnect."""

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0


class RequestError(Exception):
    """A request failed; ``code`` is the server's, or timeout, disconnected, ended, too_large."""

    def __init__(self, error: Frame) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: str = error["code"]
        self.retry: bool = error["retry"]


class Ended(Exception):
    """The connection has ended permanently, with a close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Status:
    """Status of a connection. A connection that has lasted for 20 s resets ``attempt`` to 1."""

    state: Literal["connecting", "online", "offline", "ended"]
    attempt: int = 0
    code: int | None = None
    reason: str = ""
    pause_s: float | None = None


def pause(attempt: int) -> float:
    """Return a random time from 0.5 s to a limit that doubles with each attempt, up to 20 s."""
    # The exponent is limited, too: after hours without a server, the power would overflow.
    return random.uniform(SHORTEST_PAUSE_S, min(LONGEST_PAUSE_S, 2.0 ** min(attempt, 10)))


def encode(value: object) -> str:
    """Return JSON; raise `ValueError` for a lone surrogate, which no frame can have."""
    text = json.dumps(value, ensure_ascii=False)
    text.encode()
    return text


class InvalidFrame(Exception):
    """The server has sent a frame that the client cannot use."""


def check(frame: Any, **types: Any) -> None:
    """Raise `InvalidFrame` unless the frame is an object whose fields have these types."""
    for name, kind in types.items():
        value = frame.get(name, ...) if isinstance(frame, dict) else ...
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InvalidFrame(f"no valid {name}")


def text_in(frame: Frame, name: str) -> str | None:
    """Return a field, or None if it is no string: in a frame of your own, it may be anything."""
    return value if isinstance(value := frame.get(name), str) else None


def failure(code: str, message: str, *, retry: bool = False) -> Frame:
    """Return an error frame like those of the server."""
    return {"type": "error", "code": code, "message": message, "retry": retry}
