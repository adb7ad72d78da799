"""Plays the exchanges of frames in a document with a running service.

``> {…}`` is a frame of the client, ``< {…}`` one of the server; a name before it names the client.
``(bob reconnects)`` ends a connection and opens another. Values that vary need only be consistent:
an epoch that a client receives is the one that it sends later. A guest is shown by the client's
name, or as ``guest-…``. The schemas of the AsyncAPI document must allow the frames, and replies as
replies to their commands. At the end, each client must have received no more than is shown.
"""

import json
import re
from contextlib import ExitStack
from typing import Any

from websockets.sync.client import ClientConnection

from tests.documents import Block

from .protocol import AsyncApi
from .service import ANSWER_S, Service

LINE = re.compile(r"(?:(\w+) +)?([<>]) (\{.*\})")
GUEST = re.compile(r"guest-\w+")
RECONNECTS = re.compile(r"\((\w+) reconnects\)")
ALICE = "alice"

LAST = ('> {"type": "ping", "id": "end"}', '< {"type": "pong", "id": "end"}')
"""The last lines of each client. A frame that the document does not show comes before the pong."""

VARYING = {"connection", "epoch", "expires_at"}
"""Fields whose values vary."""


def is_exchange(block: Block) -> bool:
    """Return whether the block shows frames with their directions."""
    return LINE.fullmatch(block.text.partition("\n")[0]) is not None


class Exchange:
    """The clients of one exchange, and the mapping between shown and real values."""

    def __init__(self, service: Service, block: Block, asyncapi: AsyncApi) -> None:
        self._service = service
        self._block = block
        self._asyncapi = asyncapi
        self._stack = ExitStack()
        self._clients: dict[str, ClientConnection] = {}
        self._real: dict[str, Any] = {}
        self._shown: dict[str, str] = {}
        self._asked: dict[tuple[str, Any], str] = {}

    def play(self) -> None:
        """Play the exchange."""
        with self._stack:
            for name in self._names():
                self._connect(name)
            for line in self._block.text.splitlines():
                self._play_line(line)
            for name in self._names():
                for line in LAST:
                    self._play_line(f"{name} {line}")

    def _names(self) -> list[str]:
        matches = map(LINE.fullmatch, self._block.text.splitlines())
        return sorted({match[1] or ALICE for match in matches if match})

    def _play_line(self, line: str) -> None:
        if again := RECONNECTS.fullmatch(line):
            self._clients[again[1]].close()
            self._connect(again[1])
            return
        match = LINE.fullmatch(line)
        assert match, f"{self._block.place}: not an exchange: {line}"
        name, direction, frame = match[1] or ALICE, match[2], json.loads(match[3])
        if direction == ">":
            if frame["type"] in self._asyncapi.commands():
                self._asyncapi.validate("ClientFrame", frame)
                if "id" in frame:
                    self._asked[name, frame["id"]] = frame["type"]
            self._clients[name].send(json.dumps(self._translate(frame, name)))
        elif frame["type"] != "welcome":
            self._expect(frame, self._receive(name), name)

    def _connect(self, name: str) -> None:
        self._clients[name] = self._stack.enter_context(self._service.connection(name))
        welcome = self._receive(name)
        self._real[name] = welcome["user"]
        guest = GUEST.search(self._block.text) if GUEST.fullmatch(welcome["user"]) else None
        self._shown[welcome["user"]] = guest[0] if guest else name
        shown = [line for line in self._block.text.splitlines() if '"type": "welcome"' in line]
        if shown:
            self._expect(json.loads(shown[0].partition("< ")[2]), welcome, name)

    def _receive(self, name: str) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(self._clients[name].recv(timeout=ANSWER_S))
        asked = self._asked.get((name, frame.get("id")))
        self._asyncapi.validate(f"The reply to {asked}" if asked else "ServerFrame", frame)
        return frame

    def _translate(self, value: Any, name: str) -> Any:
        """Return what to send for a value in the document."""
        if isinstance(value, dict):
            return {
                key: self._token(name) if key == "token" else self._translate(each, name)
                for key, each in value.items()
            }
        return self._real.get(value, value) if isinstance(value, str) else value

    def _token(self, name: str) -> str:
        headers: dict[str, str] = self._service.connect_options(name)["headers"]
        return headers["Authorization"].removeprefix("Bearer ")

    def _expect(self, shown: Any, real: Any, name: str) -> None:
        simple = self._simplified(shown, real)
        msg = f"{self._block.place}: {name} gets {json.dumps(simple)}, not {json.dumps(shown)}"
        assert simple == shown, msg

    def _simplified(self, shown: Any, real: Any) -> Any:
        """Return the real value with the document's placeholders where they are consistent."""
        if isinstance(real, list) and isinstance(shown, list) and len(real) == len(shown):
            return [self._simplified(*each) for each in zip(shown, real, strict=True)]
        if not (isinstance(real, dict) and isinstance(shown, dict)):
            return self._shown.get(real, real) if isinstance(real, str) else real
        same = {}
        for key, value in real.items():
            if key in VARYING and value is not None and key in shown:
                known = self._real.setdefault(shown[key], value) if key == "epoch" else value
                same[key] = shown[key] if known == value else value
            else:
                same[key] = self._simplified(shown.get(key), value)
        return same
