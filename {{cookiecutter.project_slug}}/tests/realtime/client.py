"""A client for tests, on the `websockets` package. Every wait has a deadline."""

import asyncio
import json
import ssl
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from app.realtime import RealtimeSettings
from dev import credentials
from dev.urls import websocket_url

DEADLINE_S = 9.0
"""Shorter than the default timeouts, so that a test fails if the timeout it sets has no effect."""

START_S, STOP_S = 60.0, 45.0
"""Deadlines for a process to start and stop; `STOP_S` is less than the grace period it gets."""

Frame = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """What a client needs to connect as a user."""

    uri: str
    headers: dict[str, str]
    subprotocols: list[str] = field(default_factory=list)


async def connect_options(
    settings: RealtimeSettings, user: str, *, port: int | None = None
) -> ConnectOptions:
    """Return options to connect as the user, to the settings' own port or another."""
    if port is not None:
        settings = settings.model_copy(update={"port": port})
    handshake = await credentials(settings, user)
    # {% if cookiecutter.auth == "ticket" %}
    uri = f"{websocket_url(settings)}?ticket={handshake.token}"
    # {% else %}
    uri = websocket_url(settings)
    # {% endif %}
    return ConnectOptions(uri, handshake.headers)


class Client:
    """One connection. It has received ``welcome`` unless it was opened with ``welcomed=False``."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.welcome: Frame = {}
        self._unread: deque[Frame] = deque()

    @classmethod
    async def open(
        cls, options: ConnectOptions, *, welcomed: bool = True, tls: ssl.SSLContext | None = None
    ) -> Self:
        """Connect, and receive ``welcome``."""
        connection = await connect(
            options.uri,
            additional_headers=options.headers,
            subprotocols=[Subprotocol(name) for name in options.subprotocols] or None,
            ssl=tls,
            proxy=None,
            compression=None,
            ping_interval=None,
            open_timeout=DEADLINE_S,
            close_timeout=DEADLINE_S,
        )
        client = cls(connection)
        if welcomed:
            client.welcome = await client.receive("welcome")
        return client

    @property
    def user(self) -> str:
        """Return the user in ``welcome``."""
        return str(self.welcome["user"])

    async def send(self, **frame: object) -> None:
        """Send one frame."""
        await self.send_text(json.dumps(frame))

    async def send_text(self, text: str) -> None:
        """Send any text."""
        await self.connection.send(text)

    async def receive(self, *types: str) -> Frame:
        """Return the next frame of these types, or of any; keep the others for later calls."""
        for position, unread in enumerate(self._unread):
            if not types or unread["type"] in types:
                del self._unread[position]
                return unread
        async with asyncio.timeout(DEADLINE_S):
            while True:
                frame: Frame = json.loads(await self.connection.recv())
                if not types or frame["type"] in types:
                    return frame
                self._unread.append(frame)

    async def ask(self, **command: object) -> Frame:
        """Send a command and return its answer."""
        command.setdefault("id", "ask")
        await self.send(**command)
        answer = await self.receive("ok", "error", "pong")
        assert answer["id"] == command["id"]
        return answer

    async def is_quiet(self) -> bool:
        """Return whether no frame is unread. Frames sent earlier arrive before the pong."""
        assert (await self.ask(type="ping", id="quiet"))["type"] == "pong"
        return not self._unread

    async def closed(self) -> tuple[int | None, str | None]:
        """Wait for the close; return its code and reason."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                while True:
                    self._unread.append(json.loads(await self.connection.recv()))
            except ConnectionClosed:
                return self.connection.close_code, self.connection.close_reason

    async def close(self) -> None:
        """Close with a closing handshake, after reading the frames that still arrive."""
        closing = asyncio.create_task(self.connection.close())
        await self.closed()
        await closing
