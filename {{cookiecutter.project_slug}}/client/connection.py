"""The connection: when its WebSocket is lost, it opens another one."""

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal, NamedTuple, Self
# {% if cookiecutter.auth == "ticket" %}
from urllib.parse import urlencode
# {% endif %}

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.http11 import Response
from websockets.typing import Origin, Subprotocol
from websockets.uri import parse_uri

from .frames import Frame, InvalidFrame, RequestError, check, encode, failure, text_in
from .inbox import Inbox
# {% if cookiecutter.rooms %}
from .rooms import Room
# {% endif %}
from .status import ABNORMAL, FINAL, NORMAL, Ended, Status, pause

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
REFUSED = {*range(200, 500)} - {408, 429}
"""HTTP statuses after which a client that was never online must not reconnect."""

TIMEOUT_S = 10.0
CLOSE_S = 1.0
LASTING_S = 20.0
# {% if cookiecutter.auth == "jwt" %}
SHORTEST_REFRESH_S = 10.0
# {% endif %}
HEARTBEAT = {"interval_s": 25.0, "timeout_s": 10.0}
LOST: Frame = {"type": "resync", "room": None}


class _Socket(open_socket):
    """Follows no redirects, which could send the token to another server."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


class Request(NamedTuple):
    """A command that waits for its answer."""

    text: str
    settle: Callable[[Frame], None]
    # {% if cookiecutter.rooms %}
    room: str | None
    """The room that must be joined first."""
    # {% endif %}


class Connection(Inbox[Frame]):
    """Connects in ``async with``, and reconnects until it is closed or the server ends it.

    Iterate over it for messages to the user or to all, and for frames of your own. If more than
    10,000 are unread, all are replaced by one ``resync``: some may have been lost. An invalid URL
    raises `ValueError` or `websockets.exceptions.InvalidURI`.
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
        """Rooms whose ``leave`` is not answered yet: their frames are dropped."""
        # {% endif %}
        self._url = url.replace("http", "ws", 1) if url.startswith("http") else url
        parse_uri(self._url)  # raises here, since no attempt could succeed
        # {% if cookiecutter.auth != "none" %}
        if isinstance(token, str):
            _check_token(token)
        # {% endif %}
        self._token = token
        self._origin = Origin(origin) if origin else None
        self._on_status, self._on_frame = on_status, on_frame
        self._attempt = 0
        self._online_at = 0.0
        self._numbers = map(str, itertools.count(1))
        self._unsent: dict[str, Request] = {}
        self._sent: dict[str, Request] = {}
        self._outbox: asyncio.Queue[str] = asyncio.Queue()
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect; raise `Ended` if the server permanently refuses the client."""
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
            TypeError, ValueError: the command cannot be encoded as JSON.
        """
        if not isinstance(command, str):
            msg = 'the first argument is the type: request("send", to="bob", data="hi")'
            raise TypeError(msg)
        answered = asyncio.get_running_loop().create_future()
        request = self.ask({"type": command, **fields}, answered.set_result, timeout_s)
        try:
            answer: Frame = await asyncio.shield(answered)
        except asyncio.CancelledError:
            request.settle({})  # drops it if it is unsent, otherwise ignores its answer
            raise
        if answer["type"] == "error":
            raise RequestError(answer)
        return answer

    def ask(
        self, command: Frame, on_answer: Callable[[Frame], object], timeout_s: float = TIMEOUT_S
    ) -> Request:
        """Send a command, and call ``on_answer`` with its answer before reading the next frame."""
        number = next(self._numbers)
        text = encode({**command, "id": number})

        def settle(answer: Frame) -> None:
            if self._unsent.pop(number, None) or self._sent.pop(number, None):
                timer.cancel()
                on_answer(answer)

        timeout = failure("timeout", "no answer in time", retry=True)
        timer = asyncio.get_running_loop().call_later(timeout_s, settle, timeout)
        # {% if cookiecutter.rooms %}
        room = None if command["type"] == "join" else text_in(command, "room")
        request = self._unsent[number] = Request(text, settle, room)
        # {% else %}
        request = self._unsent[number] = Request(text, settle)
        # {% endif %}
        if self.error:
            settle(failure("ended", "the connection has ended"))
        else:
            self._transmit(number, request)
        return request

    def send_waiting(self) -> None:
        # {% if cookiecutter.rooms %}
        """Send joins whose turn it is, and requests; also called by the rooms.

        At most a quarter of a burst of joins is on its way: if all are refused, the refusals stay
        below the flood limit.
        """
        # {% else %}
        """Send the requests that wait."""
        # {% endif %}
        if self.welcome is None or self.error:
            return
        # {% if cookiecutter.rooms %}
        limits = self.welcome["limits"]
        most = limits.get("messages_per_s", 0) * limits.get("burst_s", 0) // 4
        joining = sum(room.join_stage == "joining" for room in self.rooms.values())
        for room in list(self.rooms.values()):
            if room.join_stage == "due" and joining < max(1, most):
                room.join()
                joining += 1
        # {% endif %}
        for number, request in list(self._unsent.items()):
            self._transmit(number, request)

    def _transmit(self, number: str, request: Request) -> None:
        """Send a request, unless it has to wait."""
        if self.welcome is None:
            return
        # {% if cookiecutter.rooms %}
        if request.room in self.rooms and not self.rooms[request.room].is_member:
            return
        # {% endif %}
        self._sent[number] = self._unsent.pop(number)
        limit = self.welcome["limits"]["message_bytes"]
        if len(request.text.encode()) <= limit:
            self._send(request.text)
        else:
            self._call(request.settle, failure("too_large", f"more than {limit} bytes"))

    # {% if cookiecutter.rooms %}
    def refuse_requests(self, room: str, answer: Frame) -> None:
        """Answer the requests that wait for a room; called by the room."""
        for request in [each for each in self._unsent.values() if each.room == room]:
            request.settle(answer)

    def room(
        self,
        name: str,
        state: Callable[[], Awaitable[object]] | None = None,
        *,
        events: bool = False,
        last: int = 0,
        info: object = None,
    ) -> Room:
        """Return a room to enter in ``async with``, with these options of `Room`.

        Raise `RequestError` with the code ``bad_room`` unless the name is a non-empty string.
        """
        if not name or not isinstance(name, str):
            raise RequestError(failure("bad_room", "a room needs a name"))
        return Room(self, name, state, events=events, last=last, info=info)

    # {% endif %}
    async def ping(self) -> float:
        """Return the time of a round trip, in seconds; raise `RequestError` without an answer."""
        sent_at = time.monotonic()
        await self.request("ping")
        return time.monotonic() - sent_at

    async def close(self) -> None:
        """Close the connection permanently."""
        self._end(NORMAL, "closed by the client")
        if self._running:
            await asyncio.wait([self._running])
            if not self._running.cancelled():
                self._running.result()  # raises the client's own mistake

    async def _run(self) -> None:
        pause_s = 0.0
        while True:
            retry_after_s, is_final = 0, False
            try:
                await asyncio.sleep(pause_s)
                self._attempt += 1
                self._set_status(Status("connecting", self._attempt))
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
            except BaseException as mistake:
                self._set_ended(ABNORMAL, f"the client has failed: {mistake!r}")
                raise
            if self.error or is_final or code in FINAL:
                self._set_ended(code, reason)
                return
            pause_s = retry_after_s + pause(self._attempt)
            self._set_status(Status("offline", self._attempt, code, reason, pause_s))

    async def _connect(self) -> tuple[int, str]:
        """Connect once, and read until the end; return the close code and its reason."""
        try:
            token = await self._current_token()
        except Exception as problem:
            return ABNORMAL, f"no token: {problem!r}"
        if token is None:
            return UNAUTHORIZED, "signed out"
        socket = await _Socket(
            # {% if cookiecutter.auth == "ticket" %}
            f"{self._url}{'&' if '?' in self._url else '?'}{urlencode({'ticket': token})}",
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
        )
        self._outbox = asyncio.Queue()
        tasks = [asyncio.create_task(self._write(socket))]
        try:
            welcome = await self._next_frame(socket, TIMEOUT_S)
            self._go_online(welcome)
            # {% if cookiecutter.auth == "jwt" %}
            tasks.append(asyncio.create_task(self._refresh(welcome["expires_at"])))
            # {% endif %}
            terms = welcome.get("heartbeat") or HEARTBEAT
            while True:
                try:
                    frame = await self._next_frame(socket, terms["interval_s"])
                except TimeoutError:  # check by a ping whether the server is alive
                    self.ask({"type": "ping"}, lambda answer: None)
                    frame = await self._next_frame(socket, terms["timeout_s"])
                self._receive(frame)
        except ConnectionClosed as end:
            close = end.rcvd
            return (close.code, close.reason) if close else (ABNORMAL, "connection lost")
        except InvalidFrame as fault:
            return ABNORMAL, f"the server has sent an invalid frame: {fault}"
        finally:
            for task in tasks:
                task.cancel()
            self._go_offline()  # now: later requests wait for the next connection
            # Otherwise `close` would wait forever for a server that does not read.
            asyncio.get_running_loop().call_later(CLOSE_S, socket.transport.abort)
            await socket.close()

    async def _current_token(self) -> str | None:
        """Return the token; if the function cancels itself, that is an error like any other."""
        try:
            given = self._token() if callable(self._token) else self._token
            token = await given if isinstance(given, Awaitable) else given
        except asyncio.CancelledError as end:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise RuntimeError("the function was cancelled") from end
        # {% if cookiecutter.auth != "none" %}
        _check_token(token)
        # {% endif %}
        return token

    async def _next_frame(self, socket: ClientConnection, timeout_s: float) -> Frame:
        async with asyncio.timeout(timeout_s):
            text = str(await socket.recv())
        self._call(self._on_frame, "in", text)
        try:
            frame: Frame = json.loads(text)
        except (RecursionError, ValueError) as error:
            raise InvalidFrame("no JSON") from error
        check(frame, type=str)
        if frame["type"] == "error":
            check(frame, code=str, message=str, retry=bool)
        return frame

    async def _write(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                await socket.send(await self._outbox.get())

    # {% if cookiecutter.auth == "jwt" %}
    async def _refresh(self, expires_at: float | None) -> None:
        """Refresh after three quarters of the remaining time, also after a failure."""
        shortest_s = SHORTEST_REFRESH_S
        while expires_at is not None:
            left_s = expires_at - time.time()
            await asyncio.sleep(max(shortest_s, 0.75 * left_s))
            # If this clock is ahead, each new token seems to have expired.
            shortest_s = SHORTEST_REFRESH_S if left_s > SHORTEST_REFRESH_S else 2 * shortest_s
            # If all fail, the server closes the connection, and the next attempt gets a new token.
            with suppress(Exception):
                token = await self._current_token()
                if token is None:
                    self._end(UNAUTHORIZED, "signed out")
                    return
                expires_at = float((await self.request("refresh", token=token))["expires_at"])

    # {% endif %}
    def _go_online(self, welcome: Frame) -> None:
        check(welcome, limits=dict, expires_at=float | int | None)
        limits = {"messages_per_s": 0, "burst_s": 0} | welcome["limits"]
        check(limits, message_bytes=int, messages_per_s=float | int, burst_s=float | int)
        check(welcome.get("heartbeat") or HEARTBEAT, interval_s=float | int, timeout_s=float | int)
        self.welcome, self._online_at = welcome, time.monotonic()
        self.send_waiting()
        self._set_status(Status("online", self._attempt))
        self._changed.set()

    def _go_offline(self) -> None:
        """Forget the WebSocket, and answer the requests that were sent on it."""
        if self.welcome and time.monotonic() - self._online_at > LASTING_S:
            self._attempt = 1
        self.welcome = None
        # {% if cookiecutter.rooms %}
        for room in (*self.rooms.values(), *self.left.values()):
            room.interrupt()
        self.left.clear()
        # {% endif %}
        lost = failure("disconnected", "the command may have been carried out", retry=True)
        for request in list(self._sent.values()):
            request.settle(lost)

    def _receive(self, frame: Frame) -> None:
        # {% if cookiecutter.rooms %}
        name = text_in(frame, "room")
        # {% endif %}
        if "id" in frame:
            if (number := text_in(frame, "id")) in self._sent:
                self._sent[number].settle(frame)
        elif frame["type"] == "ping":
            self._send('{"type": "pong"}')
        # {% if cookiecutter.rooms %}
        elif name in self.rooms:
            self.rooms[name].receive(frame)
        elif name not in self.left:
            # {% if cookiecutter.redis %}
            if frame["type"] == "resync" and not frame.get("room"):
                for room in self.rooms.values():
                    room.resync()
            # {% endif %}
            self._put(frame)
        # {% else %}
        else:
            self._put(frame)
        # {% endif %}

    def _send(self, text: str) -> None:
        self._outbox.put_nowait(text)
        self._call(self._on_frame, "out", text)

    def _end(self, code: int, reason: str) -> None:
        """End the connection permanently, whatever its task is waiting for."""
        self._set_ended(code, reason)
        if self._running:
            self._running.cancel()

    def _set_ended(self, code: int, reason: str) -> None:
        """Tell the readers and the requests that wait that the connection has ended."""
        if self.error is None:
            self._set_status(Status("ended", self._attempt, code, reason))
            error = Ended(code, reason)
            self.end(error)
            # {% if cookiecutter.rooms %}
            for room in self.rooms.values():
                room.end(error)
            # {% endif %}
            for request in list(self._unsent.values()):
                request.settle(failure("ended", reason))

    def _set_status(self, status: Status) -> None:
        self.status = status
        self._call(self._on_status, status)

    def _call(self, handler: Callable[..., object], *arguments: object) -> None:
        """Call a handler in a later turn of the event loop, which reports its exceptions."""
        asyncio.get_running_loop().call_soon(handler, *arguments)


# {% if cookiecutter.auth != "none" %}
def _check_token(token: str | None) -> None:
    """Raise `ValueError`, which does not contain the token, unless it is printable ASCII."""
    if token is not None and not (token.isascii() and token.isprintable()):
        raise ValueError("the token has characters other than printable ASCII")


# {% endif %}
def _retry_after_s(refusal: Response) -> int:
    """Return the seconds in ``Retry-After`` (RFC 9110, 10.2.3), at most a minute, or 0."""
    first = next(iter(refusal.headers.get_all("Retry-After")), "")
    return min(60, int(first[:6])) if first.isdecimal() else 0


connect = Connection
