"""A connection over as many WebSockets as it takes."""

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Self
# {% if cookiecutter.auth == "ticket" %}
from urllib.parse import urlencode
# {% endif %}

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.http11 import Response
from websockets.typing import Origin, Subprotocol
from websockets.uri import parse_uri

from .inbox import Inbox
from .outcome import ABNORMAL, FINAL, NORMAL, Ended, Frame, RequestError, Status, failure, pause
# {% if cookiecutter.rooms %}
from .rooms import Room
# {% endif %}

Token = str | Callable[[], str | None] | Callable[[], Awaitable[str | None]]
# {% if cookiecutter.auth == "jwt" %}
"""A JSON Web Token, or a function that returns one, or None to end the connection.

The function is called before every attempt, and before the token expires.
"""
# {% elif cookiecutter.auth == "ticket" %}
"""A function that returns a new ticket before every attempt, or None to end the connection."""
# {% elif cookiecutter.auth == "session" %}
"""The site's cookie as ``name=value``, or a function that returns it before every attempt.

None ends the connection.
"""
# {% elif cookiecutter.auth == "api_key" %}
"""The API key, or a function that returns it before every attempt.

None ends the connection.
"""
# {% else %}
"""Called before every attempt; the value is not sent. None ends the connection."""
# {% endif %}

UNAUTHORIZED = 4500
REFUSED = {*range(400, 500)} - {408, 429}
"""HTTP statuses after which a client that was never online must not reconnect."""

TIMEOUT_S = 10.0
LASTING_S = 20.0
# {% if cookiecutter.auth == "jwt" %}
SHORTEST_REFRESH_S = 10.0
# {% endif %}
HEARTBEAT = {"interval_s": 25.0, "timeout_s": 10.0}
LOST: Frame = {"type": "resync", "room": None}


@dataclass(slots=True)
class Request:
    """A command that waits for its answer."""

    text: str
    settle: Callable[[Frame], None]
    is_sent: bool = False


class Connection(Inbox[Frame]):
    """Connects in ``async with``, and stays connected until its end.

    Iterate over it for messages to the user or to all, and for frames of your own. If more than
    10,000 are unread, all are replaced by one ``resync``: some may have been lost. An invalid URL
    raises `websockets.exceptions.InvalidURI`.
    """

    def __init__(
        self,
        url: str,
        token: Token = "",
        *,
        origin: str | None = None,
        on_status: Callable[[Status], object] = lambda status: None,
        on_frame: Callable[[Literal["in", "out"], str], object] = lambda direction, text: None,
    ) -> None:
        super().__init__(LOST)
        self.status = Status("connecting")
        self.welcome: Frame | None = None
        # {% if cookiecutter.rooms %}
        self.rooms: dict[str, Room] = {}
        self.left: dict[str, Room] = {}
        """Rooms until their ``leave`` is answered: what still comes for them is dropped."""
        # {% endif %}
        self._url = url.replace("http", "ws", 1) if url.startswith("http") else url
        parse_uri(self._url)  # raises here, since no attempt could succeed
        self._token = token
        self._origin = Origin(origin) if origin else None
        self._on_status, self._on_frame = on_status, on_frame
        self._attempt = 0
        self._online_at = 0.0
        self._numbers = map(str, itertools.count(1))
        self._requests: dict[str, Request] = {}
        self._outbox: asyncio.Queue[str] = asyncio.Queue()
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect; raise `Ended` if the server refuses the client for good."""
        self._running = asyncio.create_task(self._run())
        try:
            await self._wait_until(lambda: self.welcome)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        await self.close()

    async def request(
        self, command: str, /, *, timeout_s: float = TIMEOUT_S, **fields: object
    ) -> Frame:
        """Send a command, now or once online, and return its answer.

        Raises:
            RequestError: its code is the server's, or timeout, disconnected, ended, too_large.

        """
        if not isinstance(command, str):
            msg = 'the first argument is the type: request("send", to="bob", data="hi")'
            raise TypeError(msg)
        answered = asyncio.get_running_loop().create_future()
        self.ask({"type": command, **fields}, answered.set_result, timeout_s)
        answer: Frame = await asyncio.shield(answered)
        if answer["type"] == "error":
            raise RequestError(answer)
        return answer

    def ask(
        self, command: Frame, on_answer: Callable[[Frame], object], timeout_s: float = TIMEOUT_S
    ) -> None:
        """Send a command, and call a function with its answer before any later frame is read."""
        number = next(self._numbers)

        def settle(answer: Frame) -> None:
            if self._requests.pop(number, None):
                timer.cancel()
                on_answer(answer)

        timeout = failure("timeout", "no answer in time", retry=True)
        timer = asyncio.get_running_loop().call_later(timeout_s, settle, timeout)
        request = Request(json.dumps({**command, "id": number}), settle)
        self._requests[number] = request
        if self.error:
            settle(failure("ended", "the connection has ended"))
        elif self.welcome:
            self._transmit(request)

    # {% if cookiecutter.rooms %}
    def room(
        self,
        name: str,
        state: Callable[[], Awaitable[object]] | None = None,
        *,
        events: bool = False,
        last: int = 0,
        info: object = None,
    ) -> Room:
        """Return a room to enter in ``async with``, with these options of `Room`."""
        return Room(self, name, state, events=events, last=last, info=info)

    # {% endif %}
    async def ping(self) -> float:
        """Return the time of a round trip, in seconds."""
        sent_at = time.monotonic()
        await self.request("ping")
        return time.monotonic() - sent_at

    async def close(self) -> None:
        """End the connection for good."""
        self._end(NORMAL, "closed by the client")
        if self._running:
            self._running.cancel()
            await asyncio.wait([self._running])
            if not self._running.cancelled():
                self._running.result()  # raises the client's own mistake

    async def _run(self) -> None:
        while True:
            self._attempt += 1
            self._show(Status("connecting", self._attempt))
            retry_after_s, is_final = 0, False
            try:
                code, reason = await self._connect()
            except InvalidStatus as refusal:
                response, status = refusal.response, refusal.response.status_code
                why = {403: "the origin is not allowed"}.get(status, response.reason_phrase)
                code, reason = ABNORMAL, f"the server refuses the handshake: {status} {why}"
                retry_after_s = _retry_after_s(response)
                # A client that was online is configured correctly; a proxy may have answered.
                is_final = status in REFUSED and not self._online_at
            except (OSError, WebSocketException) as problem:
                code, reason = ABNORMAL, str(problem) or "no answer in time"
            except Exception as mistake:
                self._end(ABNORMAL, f"the client has failed: {mistake!r}")
                raise
            finally:
                self._drop()
            if self.error or is_final or code in FINAL:
                self._end(code, reason)
                return
            pause_s = retry_after_s + pause(self._attempt)
            self._show(Status("offline", self._attempt, code, reason, pause_s))
            await asyncio.sleep(pause_s)

    async def _connect(self) -> tuple[int, str]:
        """Connect once, and read until the end; return the close code and its reason."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                token = await self._current_token()
        except Exception as problem:
            return ABNORMAL, f"no token: {problem!r}"
        if token is None:
            return UNAUTHORIZED, "signed out"
        async with open_socket(
            # {% if cookiecutter.auth == "ticket" %}
            f"{self._url}?{urlencode({'ticket': token})}",
            # {% else %}
            self._url,
            # {% endif %}
            # {% if cookiecutter.auth == "jwt" %}
            additional_headers={"Authorization": f"Bearer {token}"},
            # {% elif cookiecutter.auth == "session" %}
            additional_headers={"Cookie": token},
            # {% elif cookiecutter.auth == "api_key" %}
            additional_headers={"X-API-Key": token},
            # {% endif %}
            subprotocols=[Subprotocol("ws.v1")],
            origin=self._origin,
            proxy=None,
            compression=None,
            max_size=None,
            ping_interval=None,
            open_timeout=TIMEOUT_S,
            close_timeout=1,
        ) as socket:
            self._outbox = asyncio.Queue()
            tasks = [asyncio.create_task(self._write(socket))]
            try:
                self._begin(await self._next_frame(socket, TIMEOUT_S))
                # {% if cookiecutter.auth == "jwt" %}
                tasks.append(asyncio.create_task(self._refresh(socket)))
                # {% endif %}
                terms = (self.welcome and self.welcome["heartbeat"]) or HEARTBEAT
                while True:
                    try:
                        frame = await self._next_frame(socket, terms["interval_s"])
                    except TimeoutError:  # a silence: is the server there?
                        self.ask({"type": "ping"}, lambda answer: None)
                        frame = await self._next_frame(socket, terms["timeout_s"])
                    self._receive(frame)
            except ConnectionClosed as end:
                close = end.rcvd
                return (close.code, close.reason) if close else (ABNORMAL, "connection lost")
            except asyncio.CancelledError:
                await socket.close()
                raise
            finally:
                for task in tasks:
                    task.cancel()

    async def _current_token(self) -> str | None:
        token = self._token() if callable(self._token) else self._token
        return await token if isinstance(token, Awaitable) else token

    async def _next_frame(self, socket: ClientConnection, timeout_s: float) -> Frame:
        async with asyncio.timeout(timeout_s):
            text = await socket.recv()
        self._call(self._on_frame, "in", str(text))
        frame: Frame = json.loads(text)
        return frame

    async def _write(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                await socket.send(await self._outbox.get())

    # {% if cookiecutter.auth == "jwt" %}
    async def _refresh(self, socket: ClientConnection) -> None:
        """Refresh after three quarters of the time, and if that fails, of what is left."""
        expires_at: float | None = self.welcome["expires_at"] if self.welcome else None
        while expires_at is not None:
            await asyncio.sleep(max(SHORTEST_REFRESH_S, 0.75 * (expires_at - time.time())))
            # In the end the server closes, and the next attempt asks for a token, too.
            with suppress(Exception):
                token = await self._current_token()
                if token is None:
                    self._end(UNAUTHORIZED, "signed out")
                    await socket.close()
                    return
                expires_at = (await self.request("refresh", token=token))["expires_at"]

    # {% endif %}
    def _begin(self, welcome: Frame) -> None:
        waiting = list(self._requests.values())
        self.welcome, self._online_at = welcome, time.monotonic()
        # {% if cookiecutter.rooms %}
        for room in list(self.rooms.values()):  # a join that is too large ends a room at once
            room.enter()
        # {% endif %}
        for request in waiting:
            self._transmit(request)
        self._show(Status("online", self._attempt))
        self._changed.set()

    def _receive(self, frame: Frame) -> None:
        # {% if cookiecutter.rooms %}
        name = frame.get("room")
        # {% endif %}
        if "id" in frame:
            if request := self._requests.get(frame["id"]):
                request.settle(frame)
        elif frame["type"] == "ping":
            self._send('{"type": "pong"}')
        # {% if cookiecutter.rooms %}
        elif name in self.rooms:
            self.rooms[name].receive(frame)
        elif name not in self.left:
            # {% if cookiecutter.redis %}
            if frame["type"] == "resync" and name is None:
                for room in self.rooms.values():
                    room.resync()
            # {% endif %}
            self._put(frame)
        # {% else %}
        else:
            self._put(frame)
        # {% endif %}

    def _transmit(self, request: Request) -> None:
        limit = self.welcome["limits"]["message_bytes"] if self.welcome else 0
        request.is_sent = True
        if len(request.text.encode()) <= limit:
            self._send(request.text)
        else:
            request.settle(failure("too_large", f"more than {limit} bytes"))

    def _send(self, text: str) -> None:
        self._outbox.put_nowait(text)
        self._call(self._on_frame, "out", text)

    def _drop(self) -> None:
        if self.welcome and time.monotonic() - self._online_at > LASTING_S:
            self._attempt = 1
        self.welcome = None
        # {% if cookiecutter.rooms %}
        for room in (*self.rooms.values(), *self.left.values()):
            room.interrupt()
        self.left.clear()
        # {% endif %}
        lost = failure("disconnected", "the command may have been carried out", retry=True)
        for request in list(self._requests.values()):
            if request.is_sent:
                request.settle(lost)

    def _end(self, code: int, reason: str) -> None:
        if self.error is None:
            self._show(Status("ended", self._attempt, code, reason))
            error = Ended(code, reason)
            self.end(error)
            # {% if cookiecutter.rooms %}
            for room in self.rooms.values():
                room.end(error)
            # {% endif %}
            for request in list(self._requests.values()):
                request.settle(failure("ended", reason))

    def _show(self, status: Status) -> None:
        self.status = status
        self._call(self._on_status, status)

    def _call(self, handler: Callable[..., object], *arguments: object) -> None:
        """Call a handler of the user. The loop reports what it raises."""
        asyncio.get_running_loop().call_soon(handler, *arguments)


def _retry_after_s(refusal: Response) -> int:
    """Return the seconds in ``Retry-After`` (RFC 9110, 10.2.3), at most a minute, or 0."""
    first = next(iter(refusal.headers.get_all("Retry-After")), "")
    return min(60, int(first[:6])) if first.isdecimal() else 0


connect = Connection
