"""Rooms of the client: they yield each message once and in order, or load the state again."""

import asyncio
import json
# {% if cookiecutter.redis %}
import random
# {% endif %}
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from .frames import Frame, RequestError, check, encode, failure
from .inbox import MAX_UNREAD, Inbox
from .status import NORMAL, Ended, pause

if TYPE_CHECKING:
    from .connection import Connection

# {% if cookiecutter.redis %}
RESYNC_S = 1.0
# {% endif %}
EVENTS = ("joined", "updated", "left")


@dataclass(frozen=True, slots=True)
class Message:
    """A message from a user (None: the server), or an event of a user, whose ``data`` is the info.

    At a ``gap``, messages may be missing. After ``rejoined``, ask for presence again: events may
    have been missed. Any other ``type`` is that of a frame of your own, which is the ``data``.
    """

    type: str
    user: str | None = None
    data: Any = None
    offset: int | None = None


class Info(NamedTuple):
    """What members see of the user. Each change is an object, compared by identity, not value."""

    value: object


GAP = Message("gap")
REJOINED = Message("rejoined")


class Room(Inbox[Message]):
    """A room to enter in ``async with``. Iterate over it for its messages.

    ``state`` loads what you keep of the room: after the first join, and at each gap. With
    ``events``, the room also yields ``joined``, ``updated`` and ``left``. ``last`` is the number of
    recent messages to get at the first join, ``info`` is what members see of the user. If more than
    10,000 messages are unread, a gap replaces them, with ``events`` followed by ``rejoined``.
    Methods that send raise `RequestError`, see `Connection.request`.
    """

    def __init__(
        self,
        connection: "Connection",
        name: str,
        state: Callable[[], Awaitable[object]] | None = None,
        *,
        events: bool = False,
        last: int = 0,
        info: object = None,
    ) -> None:
        super().__init__(GAP, *([REJOINED] if events else []))
        encode(name)  # raises now, not at a join
        self.name = name
        self._accepted = Info(_copy(info))
        self._change: Info | None = None  # until the server has accepted or refused it
        self.position: Frame = {}
        """Epoch and offset of the last message received."""
        self._connection = connection
        self._state = state
        self._events = events
        self._last = last
        self.is_member = False
        """Whether a join was accepted on this WebSocket."""
        self.join_stage: Literal["idle", "due", "joining"] = "idle"
        """``due``: waits for its turn to join. ``joining``: has its turn, and keeps it in a pause
        after ``rate_limited``, but not after another refusal.
        """
        self._may_be_in = False  # on this WebSocket, also through a former `Room` of this name
        self._held: list[Frame] | None = []  # messages that wait for the answer to a join
        self._generation = 0  # answers and timers of an earlier generation are ignored
        self._attempt = 1

    async def __aenter__(self) -> Self:
        """Join the room; raise `RequestError` if it is refused, `Ended` if the connection ends."""
        connection = self._connection
        if self.name in connection.rooms:
            raise ValueError(f"the room {self.name} is joined already")
        if connection.error is not None:
            raise connection.error
        if former := connection.left.pop(self.name, None):
            former.interrupt()
        self._may_be_in = former is not None
        connection.rooms[self.name], self.error = self, None
        try:
            self._join_in_turn()
            await self._wait_until(lambda: self._held is None)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave the room."""
        self._leave(Ended(NORMAL, "the room was left"))

    async def __anext__(self) -> Message:
        """Return the next message, and load the state at a gap.

        Raise `Ended` like the connection, and `RequestError` if the room cannot be joined again, or
        with ``evicted`` if the server has taken the user out of it.
        """
        while True:
            message = await super().__anext__()
            if message is not GAP or self._state is None:
                return message
            try:
                await self._state()
            except BaseException:
                self._unread.appendleft(GAP)
                raise

    async def publish(
        self, data: object, *, echo: bool = False, keep: bool = True, key: str | None = None
    ) -> Frame:
        """Send to the other members, and with ``echo`` to this connection as well.

        Without ``keep``, it is not stored. Repeated with the same ``key``, it is sent once.
        """
        defaults = {"echo": False, "keep": True, "key": None}
        given = {"echo": echo, "keep": keep, "key": key}
        fields: Frame = {name: value for name, value in given.items() if value != defaults[name]}
        return await self._connection.request("publish", room=self.name, data=data, **fields)

    @property
    def info(self) -> object:
        """The info that the next join sends; None after another connection has set one."""
        return (self._change or self._accepted).value

    async def set_info(self, info: object) -> None:
        """Change what members see of the user: now, or at the next join. None changes nothing."""
        if (info := _copy(info)) is None:
            return
        change = self._change = Info(info)
        if self._held is None:  # a join without a position must not overtake the room's own
            try:
                await self._connection.request("join", room=self.name, info=info)
            except RequestError as error:
                if not error.retry:
                    self._settle_info(change, is_accepted=False)
                raise
            self._settle_info(change, is_accepted=True)

    async def presence(self) -> Frame:
        """Return ``members`` and their ``total``."""
        return await self._connection.request("presence", room=self.name)

    def interrupt(self) -> None:
        """Start over, and ignore answers that are on their way; called by the connection."""
        self._generation += 1
        self.join_stage, self.is_member, self._may_be_in = "due", False, False
        self._held, self._attempt = [], 1

    def _join_in_turn(self) -> None:
        """Join after the rooms that wait already."""
        rooms, self.join_stage = self._connection.rooms, "due"
        rooms[self.name] = rooms.pop(self.name)
        self._connection.send_waiting()

    def join(self) -> None:
        """Join from the position, or for the first time; called by the connection."""
        info, may_be_in = self._change or self._accepted, self._may_be_in
        start: Frame = {"since": self.position} if self.position else {"last": self._last}
        fields = start if info.value is None else {"info": info.value, **start}

        def settle(answer: Frame) -> None:
            if answer["type"] != "error":
                self._on_join(answer, info, start)
                return
            if answer["code"] == "rate_limited" or not answer["retry"]:
                self._may_be_in = may_be_in  # this join had no effect
            if answer["retry"]:
                again = self.join
                if answer["code"] != "rate_limited":
                    again, self.join_stage = self._join_in_turn, "idle"
                    self._connection.send_waiting()  # another room may take the turn
                self._later(pause(self._attempt), again)
                self._attempt += 1
            elif info is self._change:
                self._change, self._attempt = None, 1
                self.join()  # with the last accepted info
            else:
                self._connection.refuse_requests(self.name, answer)
                self._leave(RequestError(answer))

        self.join_stage, self._may_be_in = "joining", True
        self._ask({"type": "join", **fields}, settle)

    def _on_join(self, ok: Frame, info: Info, start: Frame) -> None:
        """Continue as a member, after a join with this info from this start."""
        check(ok, epoch=str, offset=int, replayed=int)
        if "since" not in start:
            check(ok, recovered=type(None))
        self.join_stage, self.is_member, self._attempt = "idle", True, 1
        held, self._held = self._held or [], None
        # A member gets no replay. If there is one, held messages belong to a former membership.
        self._resume(ok, [] if ok["replayed"] else held)
        if self._events and "since" in start:
            self._put(REJOINED)
        if self._change:
            self._settle_info(info, is_accepted=True)
            self._send_info()  # if another one was set meanwhile
        self._connection.send_waiting()
        self._changed.set()

    def _resume(self, ok: Frame, held: list[Frame]) -> None:
        """Pass on the held messages, and continue from the position in the answer."""
        offset = ok["offset"] - ok["replayed"]
        if ok.get("recovered"):
            for frame in held:
                self._on_message(frame)
            offset = max(offset, self.position["offset"])
        else:
            self._put_gap()
            for frame in held:
                if frame["offset"] is None or not self._state:  # the others will be loaded
                    self._put(_message(frame))
        self.position = {"epoch": ok["epoch"], "offset": offset}

    def _put_gap(self) -> None:
        """Make the reader load the state, or tell it that messages may be missing."""
        if self._state:
            # Stored messages will be loaded; events and ephemeral messages will not.
            others = (each for each in self._unread if each is not GAP and each.offset is None)
            self._unread = deque(others)
        if self._state or self.position:
            self._put(GAP)
    # {% if cookiecutter.redis %}

    def resync(self) -> None:
        """Join again after a random pause, so that not all clients do at the same time."""
        if self.join_stage != "due":
            self._generation += 1
            self._held = self._held or []
            self._later(random.uniform(0, RESYNC_S), self._join_in_turn)
    # {% endif %}

    def receive(self, frame: Frame) -> None:
        """Handle a frame of the room; called by the connection."""
        match frame["type"]:
            # {% if cookiecutter.redis %}
            case "resync":
                self.resync()
            # {% endif %}
            case "evicted":
                reason = frame.get("reason") or "the server has taken the user out of the room"
                self._leave(RequestError(failure("evicted", reason)))  # a join may be on its way
            case "message":
                check(frame, offset=int | None)
                self._on_message(frame)
            case kind:
                self._note_info(frame)
                if self._events or kind not in EVENTS:
                    self._put(_message(frame))

    def _note_info(self, frame: Frame) -> None:
        """Stop sending the own info at joins once another connection of the user has set one."""
        user = (self._connection.welcome or {}).get("user")
        is_own = frame["type"] in EVENTS and frame.get("user") == user
        if is_own and frame.get("info") not in (None, self._accepted.value):
            self._accepted = Info(None)

    def _on_message(self, frame: Frame) -> None:
        """Hold a message, or pass it on, unless it is old, and advance the position to it."""
        offset = frame["offset"]
        if self._held is not None:
            self._held.append(frame)
            if len(self._held) > MAX_UNREAD:
                self._held.clear()
                self._put_gap()
        elif offset is None:  # it is not part of the history
            self._put(_message(frame))
        elif offset > self.position["offset"]:
            self.position = {**self.position, "offset": offset}
            self._put(_message(frame))

    def _leave(self, error: Exception) -> None:
        """Leave permanently. The reader gets the unread messages, then the error."""
        rooms, left = self._connection.rooms, self._connection.left
        if rooms.get(self.name) is self:
            del rooms[self.name]
            self.end(error)
            may_be_in = self._may_be_in
            self.interrupt()
            self.join_stage = "idle"
            self._connection.send_waiting()
            if may_be_in:
                left[self.name] = self
                self._send_leave()

    def _send_leave(self, attempt: int = 1) -> None:
        def settle(answer: Frame) -> None:
            if answer["type"] == "error" and answer["retry"]:
                self._later(pause(attempt), partial(self._send_leave, attempt + 1))
            else:
                del self._connection.left[self.name]

        self._ask({"type": "leave"}, settle)

    def _send_info(self, attempt: int = 1) -> None:
        """Send the info that is being set, if there is one."""
        if (change := self._change) is None:
            return

        def settle(answer: Frame) -> None:
            if answer["type"] == "error" and answer["retry"]:
                self._later(pause(attempt), partial(self._send_info, attempt + 1))
            else:
                self._settle_info(change, is_accepted=answer["type"] != "error")

        self._ask({"type": "join", "info": change.value}, settle)

    def _settle_info(self, change: Info, *, is_accepted: bool) -> None:
        """End a change of the info. If it is refused, joins send the last accepted info again."""
        if is_accepted:
            self._accepted = change
        if self._change is change:
            self._change = None

    def _ask(self, command: Frame, on_answer: Callable[[Frame], object]) -> None:
        """Send a command of this room. Its answer is ignored once another generation has begun."""
        now = self._generation
        self._connection.ask(
            {**command, "room": self.name},
            lambda answer: now == self._generation and on_answer(answer),
        )

    def _later(self, pause_s: float, act: Callable[[], object]) -> None:
        """Call a function after a pause, unless another generation has begun."""
        now = self._generation
        asyncio.get_running_loop().call_later(pause_s, lambda: now == self._generation and act())


def _copy(info: object) -> object:
    """Return a deep copy; raise an error if the info is not JSON."""
    return json.loads(encode(info))


def _message(frame: Frame) -> Message:
    if frame["type"] == "message":
        return Message("message", frame.get("from"), frame.get("data"), frame["offset"])
    if frame["type"] in EVENTS:
        return Message(frame["type"], frame.get("user"), frame.get("info"))
    return Message(frame["type"], data=frame)
