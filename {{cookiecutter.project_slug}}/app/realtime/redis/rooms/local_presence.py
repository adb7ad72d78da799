"""The users of one room on this node, and the changes that Redis does not have yet.

In Redis, a room has three kinds of keys. ``users`` is a hash: each user's number of connections,
when the info was set (Unix microseconds, or 0), and the info as JSON, separated by spaces.
``nodes`` is a sorted set: the end of each node's lease (Unix milliseconds). ``node:<id>`` is a hash
per node: each user's number of connections to it. Keys that no node renews expire.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from time import time_ns

from pydantic import Json, NonNegativeInt, PositiveInt, TypeAdapter

from ...backplane import Envelope
from ...connections.connection import Connection
from ...protocol import Data, UserName
from ...rooms.options import Rules
from ...rooms.presence import Member, Members
from ...wire.frame import frame_data
from ..backplane import Resync
from ..envelopes import encode

Argument = str | int | bytes

USERS_AT_ONCE = 100  # users that one script writes; Redis executes nothing else meanwhile

_entries = TypeAdapter(dict[UserName, tuple[PositiveInt, NonNegativeInt, Json[Data]]])


class LocalPresence:
    """Counts this node's connections in a room by user, and reports the changes."""

    def __init__(self, name: str, rules: Rules, max_listed: int) -> None:
        self.name = name
        self.rules = rules
        self.users: Counter[str] = Counter()
        self.infos: dict[str, tuple[str, bytes]] = {}
        """By user, the connection that set the info, and ``b"<Unix µs> <JSON>"``; the newest on any
        node counts. The JSON is empty if the user has left and returned since the last write."""
        # By changed user, the connection to exclude from the event; if empty, there is no event.
        # If another connection has set the info, that one is excluded instead.
        self.unwritten: dict[str, str] = {}
        self.asking: list[asyncio.Future[Members]] = []
        self._max_listed = max_listed
        self.written = 0
        """The number of the last confirmed write, 0 if Redis lacks this node."""
        self._was_lost = False
        self._once_confirmed = self.written, self._was_lost  # their values after `confirm`
        self._unconfirmed: dict[str, str] = {}
        self._answered = 0  # requests that the last report answers
        self._set_at_us = 0

    def count(self, connection: Connection, difference: int, info: bytes | None) -> None:
        """Count a connection in or out, and note the user's info if there is one."""
        user = connection.user
        is_changing = user in self.unwritten or user in self._unconfirmed
        if info is None and is_changing and not self.users[user]:
            info = b""  # Redis may never learn that the user had left
        if info is not None:
            self._set_at_us = max(self._set_at_us + 1, time_ns() // 1000)
            self.infos[user] = connection.id, b"%d %b" % (self._set_at_us, info)
        self.users[user] += difference
        if not self.users[user]:
            del self.users[user]
            self.infos.pop(user, None)
        self.unwritten[user] = self.unwritten.get(user) or connection.id

    def report(self, write: int) -> list[Argument]:
        """Return the last arguments of ``write.lua`` for the write with this number."""
        for user, cause in self._unconfirmed.items():
            self.unwritten[user] = cause or self.unwritten.get(user, "")
        self._unconfirmed = dict(islice(self.unwritten.items(), USERS_AT_ONCE))
        for user in self._unconfirmed:
            del self.unwritten[user]
        self.asking = [answer for answer in self.asking if not answer.done()]
        # Until all changes are written, the list may lack the very user who asks.
        is_last = not self.unwritten
        self._answered = len(self.asking) if is_last else 0
        max_listed = self._max_listed if self._answered else 0
        resync = self._resync() if is_last and self._was_lost else b""
        is_empty = is_last and not self.users
        self._once_confirmed = 0 if is_empty else write, self._was_lost and not is_last
        arguments: list[Argument] = [write, self.written, max_listed, resync]
        for user, cause in self._unconfirmed.items():
            setter, info = self.infos.get(user, (cause, b""))
            arguments += [user, self.users[user], cause and setter, info]
        return arguments

    def _resync(self) -> bytes:
        return encode(Envelope(None, frame_data(Resync(room=self.name)), event="frame"))

    def confirm(self, total: int, listed: Sequence[bytes]) -> bool:
        """Note that the last report is written, and answer the requests that came before it.

        Returns false if the list is malformed, so that no node can have written it.
        """
        try:
            pairs = islice(zip(listed[::2], listed[1::2], strict=True), self._max_listed)
            parts = {user: value.split(b" ", 2) for user, value in pairs}
            entries = _entries.validate_python(parts)
        except ValueError:
            return False
        members = [
            Member(user=user, connections=connections, info=info)
            for user, (connections, _, info) in entries.items()
        ]
        self.written, self._was_lost = self._once_confirmed
        for user in self._unconfirmed.keys() - self.unwritten.keys():
            _, info = self.infos.get(user, ("", b""))
            if info.endswith(b" "):
                del self.infos[user]
        self._unconfirmed = {}
        answered, self.asking = self.asking[: self._answered], self.asking[self._answered :]
        for answer in answered:
            if not answer.done():
                answer.set_result(Members(members, total))
        return True

    def restart(self) -> None:
        """Report all users again: Redis has lost this node's entries."""
        self.written, self._was_lost = 0, True
        self.unwritten = dict.fromkeys(self.users, "") | self.unwritten
