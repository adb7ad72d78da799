"""The users of one room on this node, and the changes that Redis does not have yet.

In Redis, a room has three kinds of keys. ``users`` is a hash: each user's number of connections.
``nodes`` is a sorted set: the end of each node's lease (Unix milliseconds). ``node:<id>`` is a hash
per node: each user's number of connections to it. They expire if no node renews them.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import islice

from pydantic import PositiveInt, TypeAdapter, ValidationError

from ...connections.connection import Connection
from ...protocol import UserName
from ...rooms.presence import Attendance

USERS_AT_ONCE = 500  # users that one script writes; Redis executes nothing else meanwhile

_users = TypeAdapter(dict[UserName, PositiveInt])


class Roster:
    """Counts this node's connections in a room by user, and reports the changes."""

    def __init__(self, room: str, max_listed: int) -> None:
        self.room = room
        self.users: Counter[str] = Counter()
        # For each changed user, the connection that caused the change and gets no event of it; an
        # empty id if there is no event.
        self.unwritten: dict[str, str] = {}
        self.asking: list[asyncio.Future[Attendance]] = []
        self._max_listed = max_listed
        self._is_new = True
        self._unconfirmed: dict[str, str] = {}
        self._answered = 0

    @property
    def is_written(self) -> bool:
        """Whether Redis has all changes."""
        return not self.unwritten and not self._unconfirmed

    def count(self, connection: Connection, difference: int) -> None:
        """Count a connection in or out."""
        user = connection.user
        self.users[user] += difference
        if not self.users[user]:
            del self.users[user]
        self.unwritten[user] = self.unwritten.get(user) or connection.id

    def report(self) -> list[str | int]:
        """Return the last arguments of ``write.lua`` for the next write."""
        for user, cause in self._unconfirmed.items():
            self.unwritten[user] = cause or self.unwritten.get(user, "")
        self._unconfirmed = dict(islice(self.unwritten.items(), USERS_AT_ONCE))
        for user in self._unconfirmed:
            del self.unwritten[user]
        self.asking = [answer for answer in self.asking if not answer.done()]
        # Before all changes are written, a user who asks might not be listed.
        self._answered = 0 if self.unwritten else len(self.asking)
        arguments: list[str | int] = [int(self._is_new), self._max_listed if self._answered else 0]
        for user, cause in self._unconfirmed.items():
            arguments += [user, self.users[user], cause]
        return arguments

    def confirm(self, total: int, listed: Sequence[bytes]) -> bool:
        """Note that the last report is written, and answer the requests from before it.

        Returns whether the listed users can be true.
        """
        fields = iter(listed)
        users = dict(islice(zip(fields, fields, strict=True), self._max_listed))
        try:
            attendance = Attendance(_users.validate_python(users), total)
        except ValidationError:
            return False
        self._is_new = False
        self._unconfirmed = {}
        answered, self.asking = self.asking[: self._answered], self.asking[self._answered :]
        for answer in answered:
            if not answer.done():
                answer.set_result(attendance)
        return True

    def restart(self) -> None:
        """Report all users again: Redis has lost this node's entries."""
        self._is_new = True
        self.unwritten = dict.fromkeys(self.users, "") | self.unwritten
