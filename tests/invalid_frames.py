"""Frames of a broken server, for both clients."""

import json

INVALID_FRAMES = {
    "no JSON": "not json",
    "too deep": "[" * 100_000,
    "a list": "[1]",
    "a text": '"x"',
    "null": "null",
    "no type": '{"room": "tea"}',
    "a number as type": '{"type": 5}',
    "a message without an offset": '{"type": "message", "room": "tea", "from": "bob", "data": 1}',
    "a text as offset": '{"type": "message", "room": "tea", "from": "bob", "offset": "7"}',
    "a boolean as offset": '{"type": "message", "room": "tea", "from": "bob", "offset": true}',
    "an error without a code": '{"type": "error", "id": "1", "message": "", "retry": false}',
    "an error without a message": '{"type": "error", "id": "1", "code": "bad", "retry": false}',
    "an error without retry": '{"type": "error", "id": "1", "code": "bad", "message": ""}',
    "a text as retry": json.dumps({"type": "error", "id": None, "code": "", "retry": "no"}),
}
"""Texts of frames after which a client connects again."""

INVALID_WELCOMES: list[dict[str, object]] = [
    {"limits": None},
    {"limits": {}},
    {"limits": {"message_bytes": "x"}},
    {"heartbeat": "soon"},
    {"heartbeat": {"timeout_s": 1}},
    {"heartbeat": {"interval_s": "1", "timeout_s": 1}},
    {"expires_at": "tomorrow"},
]
"""Fields that make a welcome invalid."""

INVALID_ANSWERS: list[dict[str, object]] = [
    {"epoch": None},
    {"epoch": 5},
    {"offset": "1"},
    {"replayed": None},
    {"recovered": True},
]
"""Fields that make the answer to a first join invalid."""
