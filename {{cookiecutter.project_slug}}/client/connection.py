"""A connection over as many WebSockets as it takes."""

import asyncio
import itertools
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal, Self
# {% if cookiecutter.auth == "ticket" %}
from urllib.parse import urlencode
# {% endif %}

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Origin, Subprotocol
from websockets.uri import parse_uri

from .outcome import (
    ABNORMAL,
    FINAL,
    FORBIDDEN,
    LONGEST_PAUSE_S,
    NORMAL,
    REFUSED,
    UNAUTHORIZED,
    Ended,
    Frame,
    RequestError,
    Status,
    failure,
    pause,
)
# {% if cookiecutter.rooms %}
from .rooms import Room, StateFunction
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

TIMEOUT_S = 10.0
# {% if cookiecutter.auth == "jwt" %}
SHORTEST_REFRESH_S = 10.0
# {% endif %}
HEARTBEAT = {"interval_s": 25.0, "timeout_s": 10.0}
MAX_UNREAD = 10_000


class Connection:
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
        self.status = Status("connecting")
        self.welcome: Frame | None = None
        self.latency_s: float | None = None
        # {% if cookiecutter.rooms %}
        self.rooms: dict[str, Room] = {}
        # {% endif %}
        self._url = url.replace("http", "ws", 1) if url.startswith("http") else url
        parse_uri(self._url)  # raises here, since no attempt could succeed
        self._token = token
        self._origin = Origin(origin) if origin else None
        self._on_status, self._on_frame = on_status, on_frame
        self._attempt = 0
        self._was_online = False
        self._ids = map(str, itertools.count(1))
        self._waiting: dict[str, tuple[str, Callable[[Frame], None], asyncio.TimerHandle]] = {}
        self._sent: set[str] = set()
        self._unread: deque[Frame] = deque()
        self._outbox: asyncio.Queue[str] = asyncio.Queue()
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Connect; raise `Ended` if the server refuses the client for good."""
        self._running = asyncio.create_task(self._run())
        try:
            await self.wait_until(lambda: self.welcome is not None)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        await self.close()

    def __aiter__(self) -> Self:
        """Iterate over frames."""
        return self

    async def __anext__(self) -> Frame:
        """Return the next frame; raise `Ended` if the server has ended the connection."""
        await self.wait_for_more(lambda: bool(self._unread))
        return self._unread.popleft()

    # {% if cookiecutter.rooms %}
    def room(
        self,
        name: str,
        state: StateFunction | None = None,
        *,
        events: bool = False,
        last: int = 0,
        info: object = None,
    ) -> Room:
        """Return a room to enter; with ``events`` it also yields who has joined and left.

        It yields the ``last`` messages at first. Members see the ``info`` of the user.
        """
        return Room(self, name, state, events=events, last=last, info=info)

    # {% endif %}
    async def request(
        self, command: str, /, *, timeout_s: float = TIMEOUT_S, **fields: object
    ) -> Frame:
        """Send a command, now or once online, and return its answer; raise `RequestError`."""
        if not isinstance(command, str):
            msg = 'the first argument is the type: request("send", to="bob", data="hi")'
            raise TypeError(msg)
        answered = asyncio.get_running_loop().create_future()
        self.ask({"type": command, **fields}, answered.set_result, timeout_s)
        answer: Frame = await asyncio.shield(answered)
        if answer["type"] == "error":
            raise RequestError(answer["code"], answer["message"], retry=answer["retry"])
        return answer

    def ask(
        self, command: Frame, take: Callable[[Frame], None], timeout_s: float = TIMEOUT_S
    ) -> None:
        """Send a command, and call a function with its answer before any later frame is read."""
        number = next(self._ids)
        text = json.dumps({**command, "id": number})
        timeout = failure("timeout", "no answer in time", retry=True)
        timer = asyncio.get_running_loop().call_later(timeout_s, self._settle, number, timeout)
        self._waiting[number] = text, take, timer
        if self.status.state == "ended":
            self._settle(number, failure("ended", "the connection has ended"))
        elif self.welcome is not None:
            self._transmit(number)

    async def ping(self) -> float:
        """Return the time of a round trip, in seconds."""
        sent_at = time.monotonic()
        await self.request("ping")
        self.latency_s = time.monotonic() - sent_at
        return self.latency_s

    async def close(self) -> None:
        """End the connection for good."""
        self._running.cancel()
        try:
            await asyncio.wait([self._running])
        finally:
            self._end(NORMAL, "closed by the client")
        if not self._running.cancelled():
            self._running.result()  # raises the client's own mistake

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition on what the server sends; raise `Ended` if it cannot come true."""
        while not condition():
            if self.status.state == "ended":
                raise Ended(self.status.code or ABNORMAL, self.status.reason)
            await self._changed.wait()

    async def wait_for_more(self, condition: Callable[[], bool]) -> None:
        """Wait for something to yield; `close` ends the iteration."""
        try:
            await self.wait_until(condition)
        except Ended as end:
            if end.code == NORMAL:
                raise StopAsyncIteration from None
            raise

    def notify(self) -> None:
        """Wake all tasks that wait for a condition."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self) -> None:
        code, reason = ABNORMAL, ""
        while True:
            self._attempt += 1
            self._show(Status("connecting", self._attempt))
            started_at = time.monotonic()
            is_final = False
            try:
                code, reason = await self._visit()
            except InvalidStatus as refusal:
                code, reason = ABNORMAL, _explain(refusal)
                # Once online, the client is right, and a proxy may miss the server.
                is_final = refusal.response.status_code in REFUSED and not self._was_online
            except (OSError, WebSocketException) as problem:
                code, reason = ABNORMAL, str(problem) or "no answer in time"
            except Exception as mistake:
                self._end(ABNORMAL, f"the client has failed: {mistake!r}")
                raise
            finally:
                self._drop()
            if is_final or code in FINAL:
                return self._end(code, reason)
            if time.monotonic() - started_at > LONGEST_PAUSE_S:
                self._attempt = 0
            pause_s = pause(self._attempt)
            self._show(Status("offline", self._attempt, code, reason, pause_s))
            await asyncio.sleep(pause_s)

    async def _visit(self) -> tuple[int, str]:
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
                async with asyncio.timeout(TIMEOUT_S):
                    self._begin(self._parse(await socket.recv()))
                # {% if cookiecutter.auth == "jwt" %}
                tasks.append(asyncio.create_task(self._refresh()))
                # {% endif %}
                while True:
                    self._take(self._parse(await self._receive(socket)))
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

    async def _receive(self, socket: ClientConnection) -> str | bytes:
        """Return the next frame; after a silence, ask whether the server is there."""
        terms = (self.welcome and self.welcome["heartbeat"]) or HEARTBEAT
        try:
            async with asyncio.timeout(terms["interval_s"]):
                return await socket.recv()
        except TimeoutError:
            self.ask({"type": "ping"}, lambda answer: None)
        async with asyncio.timeout(terms["timeout_s"]):
            return await socket.recv()

    async def _write(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                await socket.send(await self._outbox.get())

    # {% if cookiecutter.auth == "jwt" %}
    async def _refresh(self) -> None:
        """Refresh after three quarters of the time, and if that fails, of what is left."""
        expires_at: float | None = self.welcome["expires_at"] if self.welcome else None
        while expires_at is not None:
            await asyncio.sleep(max(SHORTEST_REFRESH_S, 0.75 * (expires_at - time.time())))
            # In the end the server closes, and the next attempt asks for a token, too.
            with suppress(Exception):
                token = await self._current_token()
                if token is None:
                    self._end(UNAUTHORIZED, "signed out")
                    self._running.cancel()
                    return
                expires_at = (await self.request("refresh", token=token))["expires_at"]

    # {% endif %}
    def _begin(self, welcome: Frame) -> None:
        waiting = list(self._waiting)
        self.welcome, self._was_online = welcome, True
        # {% if cookiecutter.rooms %}
        for room in self.rooms.values():
            room.join()
        # {% endif %}
        for number in waiting:
            self._transmit(number)
        self._show(Status("online", self._attempt))

    def _parse(self, text: str | bytes) -> Frame:
        self._call(self._on_frame, "in", str(text))
        frame: Frame = json.loads(text)
        return frame

    def _take(self, frame: Frame) -> None:
        if "id" in frame:
            self._settle(frame["id"], frame)
        elif frame["type"] == "ping":
            self._send('{"type": "pong"}')
        # {% if cookiecutter.rooms %}
        elif frame.get("room") in self.rooms:
            self.rooms[frame["room"]].take(frame)
        # {% endif %}
        # {% if cookiecutter.rooms and cookiecutter.redis %}
        elif frame["type"] == "resync":
            for room in self.rooms.values():
                room.resync()
        # {% endif %}
        else:
            if len(self._unread) >= MAX_UNREAD:
                self._unread.clear()
                frame = {"type": "resync", "room": None}
            self._unread.append(frame)
        self.notify()

    def _transmit(self, number: str) -> None:
        text, *_ = self._waiting[number]
        limit = self.welcome["limits"]["message_bytes"] if self.welcome else 0
        self._sent.add(number)
        if len(text.encode()) <= limit:
            self._send(text)
        else:
            self._settle(number, failure("too_large", f"more than {limit} bytes"))

    def _send(self, text: str) -> None:
        self._outbox.put_nowait(text)
        self._call(self._on_frame, "out", text)

    def _settle(self, number: str, answer: Frame) -> None:
        self._sent.discard(number)
        if number in self._waiting:
            _, take, timer = self._waiting.pop(number)
            timer.cancel()
            take(answer)

    def _drop(self) -> None:
        self.welcome = None
        lost = failure("disconnected", "the command may have been carried out", retry=True)
        for number in list(self._sent):
            self._settle(number, lost)

    def _end(self, code: int, reason: str) -> None:
        if self.status.state != "ended":
            self._show(Status("ended", self._attempt, code, reason))
            for number in list(self._waiting):
                self._settle(number, failure("ended", reason))

    def _show(self, status: Status) -> None:
        self.status = status
        self._call(self._on_status, status)
        self.notify()

    def _call(self, handler: Callable[..., object], *arguments: object) -> None:
        """Call a handler of the user. The loop reports what it raises."""
        asyncio.get_running_loop().call_soon(handler, *arguments)


def _explain(refusal: InvalidStatus) -> str:
    response = refusal.response
    forbidden = response.status_code == FORBIDDEN
    why = "the origin is not allowed" if forbidden else response.reason_phrase
    return f"the server refuses the handshake: {response.status_code} {why}"


connect = Connection
