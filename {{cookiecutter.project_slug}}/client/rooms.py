"""Rooms of the client: each message is yielded once and in order, or the state is loaded."""

import asyncio
# {% if cookiecutter.redis %}
import random
# {% endif %}
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from .outcome import Frame, RequestError, pause

if TYPE_CHECKING:
    from .connection import Connection

StateFunction = Callable[[], Awaitable[object]]
"""Loads what you keep of the room: at first, and whenever messages may be missing."""

MAX_HELD = 10_000
# {% if cookiecutter.redis %}
RESYNC_S = 1.0
# {% endif %}

EVENTS = ("joined", "updated", "left", "evicted")


@dataclass(frozen=True, slots=True)
class Message:
    """A message from a user (None: the server), or an event of a user, with the info as data.

    After ``rejoined``, events may have been missed: ask for presence again. Any other ``type`` is
    that of a frame of your own, which is the ``data``.
    """

    type: str
    user: str | None
    data: Any = None
    offset: int | None = None


@dataclass(eq=False)
class Room:
    """A room to enter in ``async with``. Iterate over it for its messages."""

    connection: "Connection"
    name: str
    state: StateFunction | None
    events: bool
    last: int
    info: object

    def __post_init__(self) -> None:
        """Begin without a position; the first join yields one."""
        self.position: Frame | None = None
        """Of the last message received."""
        self._loads_due = 0
        self._messages: deque[Message] = deque()
        self._held: list[Frame] | None = None
        self._is_full = False
        self._refusal: RequestError | None = None

    async def __aenter__(self) -> Self:
        """Join the room; raise `RequestError` if that is refused, `Ended` without a connection."""
        if self.name in self.connection.rooms:
            raise ValueError(f"the room {self.name} is joined already")
        self.connection.rooms[self.name] = self
        if self.connection.welcome is not None:
            self.join()
        try:
            await self.connection.wait_until(lambda: bool(self.position or self._refusal))
        except BaseException:
            self._leave()
            raise
        if self._refusal is not None:
            self.connection.rooms.pop(self.name, None)
            raise self._refusal
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave the room."""
        self._leave()

    def __aiter__(self) -> Self:
        """Iterate over messages."""
        return self

    async def __anext__(self) -> Message:
        """Return the next message, after the state is loaded; raise `Ended` like the connection.

        If the server has taken the user out of the room, raise `RequestError` with ``evicted``.
        """
        while True:
            if self._messages and not self._loads_due:
                return self._messages.popleft()
            if self._refusal is not None:
                raise self._refusal
            if due := self._loads_due:
                if self.state is not None:
                    await self.state()
                # Meanwhile, another gap may have made what was loaded too old.
                self._loads_due -= due
            elif self._is_full:
                self._is_full = False
                self._held = []
                self._send_leave(then=self.join)
            else:
                await self.connection.wait_for_more(
                    lambda: bool(self._messages or self._loads_due or self._refusal)
                )

    async def publish(
        self, data: object, *, echo: bool = False, keep: bool = True, key: str | None = None
    ) -> Frame:
        """Send to the members, without ``echo`` to the others only, without ``keep`` not stored.

        Repeated with the same ``key``, it is sent once.
        """
        return await self.connection.request(
            "publish", room=self.name, data=data, echo=echo, keep=keep, key=key
        )

    async def set_info(self, info: object) -> None:
        """Change what members see of the user: now, or when the room is joined."""
        self.info = info
        # A join without a position must not overtake the room's own.
        if self._held is None and self.connection.welcome is not None:
            await self.connection.request("join", room=self.name, info=info)

    async def presence(self) -> Frame:
        """Return ``members`` and their ``total``."""
        return await self.connection.request("presence", room=self.name)

    def join(self, attempt: int = 1) -> None:
        """Join, or find out what a member has missed; for the connection."""
        self._held = self._held or []
        since = {"since": self.position} if self.position else {"last": self.last}
        command = {"type": "join", "room": self.name, "info": self.info, **since}

        def take(answer: Frame) -> None:
            if answer["type"] != "error":
                self._arrive(command, answer)
            elif answer["retry"] and self.connection.welcome is not None:
                self._later(pause(attempt), partial(self.join, attempt + 1))
            elif not answer["retry"] and answer["code"] != "ended" and self._refusal is None:
                self._refusal = RequestError(answer["code"], answer["message"], retry=False)

        self.connection.ask(command, take)

    def _later(self, pause_s: float, act: Callable[[], None]) -> None:
        """Call a function after a pause, if the WebSocket and the room are still the same."""
        connection, welcome = self.connection, self.connection.welcome

        def act_if_due() -> None:
            if connection.welcome is welcome and connection.rooms.get(self.name) is self:
                act()

        asyncio.get_running_loop().call_later(pause_s, act_if_due)
    # {% if cookiecutter.redis %}

    def resync(self) -> None:
        """Join again, at another moment than the other clients; for the connection."""
        self._held = self._held or []
        self._later(random.uniform(0, RESYNC_S), self.join)
    # {% endif %}

    def _arrive(self, command: Frame, ok: Frame) -> None:
        """Take the answer to a join."""
        self._proceed(ok)
        # If messages were dropped, the room will be joined once more.
        if self.events and "since" in command and not self._is_full:
            self._messages.append(Message("rejoined", None))
        if self.info is not command["info"]:
            current = {"type": "join", "room": self.name, "info": self.info}
            self.connection.ask(current, lambda answer: None)

    def _proceed(self, ok: Frame) -> None:
        """Go on from the position of the answer, as its ``recovered`` says."""
        before, self._held = self._held or [], None
        position = {"epoch": ok["epoch"], "offset": ok["offset"] - ok["replayed"]}
        if not ok["recovered"]:
            if self.state is not None:
                # What came before the answer is part of what will be loaded.
                self._messages.clear()
                self._is_full = False
                self._loads_due += 1
            elif not ok["replayed"]:
                self._messages.extend(map(_message, before))
            self.position = position
        elif not ok["replayed"]:
            for frame in before:
                self._deliver(frame)
            if self._is_full or len(before) >= MAX_HELD:
                self._is_full = True  # and more were dropped, which the history has
            elif self.position is not None and position["offset"] > self.position["offset"]:
                self.position = position

    def take(self, frame: Frame) -> None:
        """Take a frame of the room; for the connection."""
        # {% if cookiecutter.redis %}
        if frame["type"] == "resync":
            self.resync()
            return
        # {% endif %}
        if frame["type"] == "evicted":
            reason = frame["reason"] or "the server has taken the user out of the room"
            self._refusal = RequestError("evicted", reason, retry=False)
            self._leave()  # a join may be on its way
        elif self._is_full or (frame["type"] in EVENTS and not self.events):
            return
        elif frame["type"] != "message" or frame["offset"] is None:
            if len(self._messages) < MAX_HELD:
                self._messages.append(_message(frame))
        elif self._held is None:
            self._deliver(frame)
        elif len(self._held) < MAX_HELD:
            self._held.append(frame)

    def _leave(self) -> None:
        self.connection.rooms.pop(self.name, None)
        self._send_leave()

    def _send_leave(self, attempt: int = 1, then: Callable[[], None] = lambda: None) -> None:
        """Send a leave; repeat it if refused for now, while WebSocket and room are the same."""
        connection, name = self.connection, self.name
        welcome, room = connection.welcome, connection.rooms.get(name)
        if welcome is None:
            return

        def is_due() -> bool:
            return connection.welcome is welcome and connection.rooms.get(name) is room

        def again() -> None:
            if is_due():
                self._send_leave(attempt + 1, then)

        def take(answer: Frame) -> None:
            if answer["type"] == "error" and answer["retry"]:
                asyncio.get_running_loop().call_later(pause(attempt), again)
            elif is_due():
                then()

        connection.ask({"type": "leave", "room": name}, take)

    def _deliver(self, frame: Frame) -> None:
        if self.position is not None and frame["offset"] > self.position["offset"]:
            self.position = {**self.position, "offset": frame["offset"]}
            self._messages.append(_message(frame))
            # What comes from now on is read from the history, when there is room for it.
            self._is_full = len(self._messages) >= MAX_HELD


def _message(frame: Frame) -> Message:
    if frame["type"] == "message":
        return Message("message", frame["from"], frame["data"], frame["offset"])
    if frame["type"] in EVENTS:
        return Message(frame["type"], frame["user"], frame.get("info"))
    return Message(frame["type"], None, frame)
