"""Frames: how they are written and checked, and the errors that they cause."""

import json
from typing import Any

Frame = dict[str, Any]
"""A frame of ``docs/protocol.md``."""


class RequestError(Exception):
    """A request failed; ``code`` is the server's, or timeout, disconnected, ended, too_large."""

    def __init__(self, error: Frame) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: str = error["code"]
        self.retry: bool = error["retry"]


class InvalidFrame(Exception):
    """The server has sent a frame that the client cannot use."""


def failure(code: str, message: str, *, retry: bool = False) -> Frame:
    """Return an error frame like those of the server."""
    return {"type": "error", "code": code, "message": message, "retry": retry}


def encode(value: object) -> str:
    """Return JSON; raise `ValueError` for a lone surrogate, which no frame can have."""
    text = json.dumps(value, ensure_ascii=False)
    text.encode()
    return text


def check(frame: Any, **types: Any) -> None:
    """Raise `InvalidFrame` unless the frame is an object whose fields have these types."""
    for name, kind in types.items():
        value = frame.get(name, ...) if isinstance(frame, dict) else ...
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InvalidFrame(f"no valid {name}")


def text_in(frame: Frame, name: str) -> str | None:
    """Return a field, or None if it is no string: in a frame of your own, it may be anything."""
    return value if isinstance(value := frame.get(name), str) else None
